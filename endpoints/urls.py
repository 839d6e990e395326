"""The console's addresses outside IAM and the registry."""

from django.urls import path, re_path
from django.views.i18n import set_language

from endpoints.views import (
    detail,
    editing,
    fixing,
    frame,
    home,
    listing,
    machines,
    metrics,
    revisions,
    scaling,
    usage,
)

app_name = "endpoints"

_ONE = "inference/<str:endpoint_id>/"

urlpatterns = [
    path("", home.home, name="home"),
    path("console/project/", frame.switch_project, name="switch_project"),
    path("console/region/", frame.switch_region, name="switch_region"),
    path("console/language/", set_language, name="set_language"),
    path("administration/machines/", machines.machines, name="machines"),
    path("usage/", usage.index, name="usage"),
    path("usage/usage.csv", usage.csv_file, name="usage_csv"),
    path("inference/", listing.endpoint_list, name="list"),
    re_path(r"^inference/bulk/(?P<verb>pause|resume|delete)/$", listing.bulk, name="bulk"),
    path("inference/create/", editing.create, name="create"),
    path("inference/create/models/", editing.model_options, name="model_options"),
    path("inference/create/instance-types/", editing.instance_types, name="instance_types"),
    path(_ONE, detail.detail, name="detail"),
    path(_ONE + "use/", detail.use_tab, name="use"),
    path(_ONE + "logs/", detail.logs_tab, name="logs"),
    path(_ONE + "metrics/", metrics.metrics_tab, name="metrics"),
    path(_ONE + "events/", detail.events_tab, name="events"),
    path(_ONE + "scaling/", scaling.decisions_tab, name="decisions"),
    path(_ONE + "revisions/", revisions.revisions_tab, name="revisions"),
    path(_ONE + "settings/", editing.settings_tab, name="settings"),
    path(_ONE + "settings/changes/", editing.changes, name="changes"),
    path(_ONE + "settings/dry-run/", scaling.dry_run, name="dry_run"),
    path(_ONE + "do/rollback/", revisions.rollback, name="rollback"),
    path(_ONE + "do/restart/", revisions.restart, name="restart"),
    path(_ONE + "do/fix/", fixing.fix, name="fix"),
    re_path(
        r"^inference/(?P<endpoint_id>[^/]+)/do/(?P<verb>pause|resume|retry|keep|delete)/$",
        detail.act,
        name="act",
    ),
]
