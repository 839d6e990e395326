"""The console's addresses outside IAM and the registry."""

from django.urls import path
from django.views.i18n import set_language

from endpoints.views import frame, home

app_name = "endpoints"

urlpatterns = [
    path("", home.home, name="home"),
    path("console/project/", frame.switch_project, name="switch_project"),
    path("console/region/", frame.switch_region, name="switch_region"),
    path("console/language/", set_language, name="set_language"),
]
