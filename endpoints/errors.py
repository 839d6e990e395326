"""Every reason an endpoint can have for its status: a stable code, a sentence, and what to do (contract §5).

Words live here alone. Parameters come from the reconciler's evidence; they are plain text and are escaped where
they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from endpoints import shortage


@dataclass(frozen=True, slots=True)
class Reason:
    """What a person is told. `fix` names the page or button that helps: "", "retry", "edit", "resume", "registry" or
    "credentials"; what can be done with one click is endpoints.fixes' business."""

    code: str
    message: str
    action: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class _Words:
    message: Promise
    action: Promise
    fix: str = ""


_WAIT = _("Nothing to do: this page follows it.")

WORDS: dict[str, _Words] = {
    # on the way
    "queued": _Words(_("Waiting for a worker to take it up."), _WAIT),
    "pulling_image": _Words(_("Fetching the image %(image)s."), _WAIT),
    "starting": _Words(_("The container is starting."), _WAIT),
    "loading_model": _Words(_("The model server is loading the model."), _WAIT),
    "routing": _Words(
        _("The model is ready; the gateway has not confirmed its route yet."),
        _("If this lasts more than a few seconds, check that the gateway runs."),
    ),
    "updating": _Words(_("A new revision is being rolled out; the old one serves meanwhile."), _WAIT),
    "fewer_replicas": _Words(_("%(ready)s of %(wanted)s replicas are ready."), _WAIT),
    "scaling_up": _Words(_("More replicas are being added: %(ready)s of %(wanted)s are ready."), _WAIT),
    "asleep": _Words(
        _("Asleep: nobody called it for its idle timeout, so no replica runs and nothing is held."),
        _("Nothing to do: the next request wakes it and is answered when a replica is ready."),
    ),
    "replacing": _Words(_("A replica ended and is being replaced."), _WAIT),
    "pausing": _Words(_("Paused: its last replicas are being stopped."), _WAIT, "resume"),
    "paused": _Words(
        _("Paused: no replica runs and nothing is held."), _("Resume it to serve again."), "resume"
    ),
    "deleting": _Words(_("Its replicas and everything that belongs to them are being removed."), _WAIT),
    # the platform's side
    "engine_unreachable": _Words(
        _("The container engine does not answer."),
        _("Start the Docker Engine. What runs is left alone, and this goes on by itself once it answers."),
    ),
    "engine_not_permitted": _Words(
        _("The platform's user may not use the container engine's socket."),
        _(
            "Add the user to the docker group, or run the platform as one who may. This goes on by itself then."
        ),
    ),
    # What exactly is missing is put together from its params: endpoints.shortage.
    "no_capacity": _Words(
        _("No machine has room for it now."),
        _("It starts by itself when there is room. A smaller instance type may fit sooner."),
        "edit",
    ),
    "no_space": _Words(
        _("The container engine's disk is full."),
        _("Free space on the engine's disk (docker system df shows what takes it). It is tried again."),
        "retry",
    ),
    "no_subnet": _Words(
        _("No subnet is left for this project's network."),
        _("Widen BERTH_SUBNET_POOL, or delete endpoints of projects that need none."),
        "retry",
    ),
    "gpu_unavailable": _Words(
        _("The engine could not hand out the GPUs of this instance type."),
        _("Check the NVIDIA driver and container toolkit on the host, or choose a CPU instance type."),
        "edit",
    ),
    "port_conflict": _Words(
        _("A host port that the replica needs is taken."), _("Free the port, then retry."), "retry"
    ),
    "runtime_error": _Words(
        _("The container engine refused the request."), _("Read the evidence, then retry."), "retry"
    ),
    # the image
    "image_not_found": _Words(
        _("The registry has no image %(image)s."),
        _("Check the image's name and tag in the Model Registry."),
        "registry",
    ),
    "image_denied": _Words(
        _("The registry refuses to hand out %(image)s."),
        _("Let a project admin enter credentials that may read it at the model, then retry."),
        "credentials",
    ),
    "registry_not_allowed": _Words(
        _("Images may not come from the registry of %(image)s."),
        _("The evidence says why, and what allows it. Else choose an image of another registry."),
        "registry",
    ),
    "registry_unreachable": _Words(
        _("The image registry of %(image)s can't be reached."),
        _("Check the host's network and the registry's name. It is tried again every few seconds."),
        "retry",
    ),
    # the container
    "invalid_container": _Words(
        _("The engine refused this container's configuration."),
        _("Correct the model's settings in the Model Registry."),
        "registry",
    ),
    "command_not_found": _Words(
        _("The image has no program that its command names."),
        _("Correct the model's image or command in the Model Registry."),
        "registry",
    ),
    "container_exited": _Words(
        _("The container ended by itself with exit code %(exit_code)s before it was ready."),
        _("The last log lines say why. Correct the model or its settings, then retry."),
        "retry",
    ),
    "container_died": _Words(
        _("The container ended by itself with exit code %(exit_code)s while it was serving."),
        _("A new one is started by itself. The last log lines say why this one ended."),
    ),
    "out_of_memory": _Words(
        _("The container needed more than its %(memory)s of memory and was ended by the kernel."),
        _("Choose a bigger instance type, or a shorter context."),
        "edit",
    ),
    "health_timeout": _Words(
        _("Nothing healthy answered on port %(port)s at %(path)s within %(seconds)s seconds."),
        _(
            "If the server answers on another port or path, correct it in the settings; if it loads long, retry."
        ),
        "registry",
    ),
    "unresponsive": _Words(
        _("A replica that had been ready has stopped answering its health check."),
        _("It is replaced by itself after 30 seconds of silence. Its log tells what it was doing."),
    ),
    "update_overdue": _Words(
        _("No replica of the new revision got ready within %(seconds)s seconds."),
        _("Look at the events of this endpoint for what held it up, then ask for the change again."),
        "edit",
    ),
    "container_gone": _Words(
        _("The container was removed by someone else."), _("A new one is started by itself."), "retry"
    ),
    # what the container's own words say (endpoints.causes)
    "wrong_port": _Words(
        _("The container listens on port %(listens)s, but it is asked on port %(port)s."),
        _("Let the endpoint use the port that the container listens on."),
        "registry",
    ),
    "bound_to_loopback": _Words(
        _("The server listens on 127.0.0.1:%(port)s inside its container, where nobody else can reach it."),
        _("Make it listen on 0.0.0.0, often with an option named --host, then retry."),
        "registry",
    ),
    "unhealthy_answer": _Words(
        _("The server runs, but answers %(path)s with status %(answer)s instead of 200."),
        _("Correct the health path in the settings. The last log lines may say why it is not healthy."),
        "edit",
    ),
    "port_in_use": _Words(
        _("Two programs inside the container want the same port."),
        _("Correct the image's command so that only one of them listens on it, then retry."),
        "registry",
    ),
    "model_file_missing": _Words(
        _("A file of the model is not there: %(file)s."),
        _("Import the model again. Where a command names the file, correct the command."),
        "registry",
    ),
    "model_file_corrupt": _Words(
        _("A file of the model is damaged or cut off."), _("Import the model again."), "registry"
    ),
    "model_unsupported": _Words(
        _("This version of the model server does not know the model's architecture, %(architecture)s."),
        _("Choose a newer image, or another framework for this model."),
        "registry",
    ),
    "wrong_architecture": _Words(
        _("The image, or the program in it, is made for another kind of processor than this machine's."),
        _("Choose an image for this machine's processor."),
        "registry",
    ),
    "permission_denied": _Words(
        _("The program may not read, write or run %(file)s."),
        _("Give the container's user the right to it, or point the program to another path such as /tmp."),
        "registry",
    ),
    "read_only_files": _Words(
        _("The program tried to write %(file)s, which can only be read."),
        _("Point it to a path that can be written, such as /tmp, then retry."),
        "registry",
    ),
    "no_space_inside": _Words(
        _("A disk or a temporary folder inside the container is full."),
        _("Let the program write less, or free space on the engine's disk, then retry."),
        "retry",
    ),
    "bad_arguments": _Words(
        _("The program refused its command line: %(detail)s"),
        _("Correct the command or the settings, then retry."),
        "edit",
    ),
    "context_too_long": _Words(
        _("There is not enough memory for a context as long as this."),
        _("Use a shorter context, or an instance type with more memory."),
        "edit",
    ),
    "context_beyond_model": _Words(
        _("A context of %(asked)s tokens is longer than the model's own of %(fits)s."),
        _("Use a context that the model was made for."),
        "edit",
    ),
    "gpu_out_of_memory": _Words(
        _("The GPU's memory is too small for the model."),
        _(
            "Choose an instance type with more GPU memory, a smaller or quantised model, or a shorter context."
        ),
        "edit",
    ),
    "gpu_driver_missing": _Words(
        _("The container finds no GPU, or no NVIDIA driver."),
        _(
            "Check the driver and the NVIDIA container toolkit on the host, or choose an image that needs no GPU."
        ),
        "retry",
    ),
    "gpu_driver_too_old": _Words(
        _("The host's NVIDIA driver is too old for this image."),
        _("Update the driver on the host, or choose an older image."),
        "retry",
    ),
    "gpu_unsupported": _Words(
        _("The image holds no code for this generation of GPUs."),
        _("Choose an image that was built for it, or an instance type with another GPU."),
        "edit",
    ),
    "dtype_unsupported": _Words(
        _("This GPU can't compute with bfloat16 numbers."), _("Use the data type “half”."), "edit"
    ),
    "gpu_error": _Words(
        _("The GPU reported an error: %(detail)s"),
        _("Retry. If it comes back, check the host's GPU and its driver."),
        "retry",
    ),
    # the request
    "model_gone": _Words(
        _("Its model is not in the Model Registry any more."), _("Choose another model."), "edit"
    ),
    "model_not_ready": _Words(
        _("The model %(model)s is not imported yet."), _("Wait for the import, or retry it."), "registry"
    ),
    "needs_containers": _Words(
        _("%(framework)s runs in containers, and this platform runs without an engine."),
        _("Start a Docker Engine and the platform again, or choose a llama.cpp model."),
        "registry",
    ),
    "variables_need_containers": _Words(
        _("Variables (%(names)s) are given to containers only, and this platform runs without an engine."),
        _("Remove the variables, or start a Docker Engine and the platform again."),
        "edit",
    ),
}


def describe(code: str, params: Mapping[str, Any]) -> Reason:
    """The words for `code`. A code nobody knows is shown as itself, with the evidence, rather than hidden."""
    words = WORDS.get(code)
    if words is None:
        return Reason(code, code.replace("_", " "), "")
    if code == "no_capacity" and (message := shortage.message(params)):
        return Reason(code, message, shortage.action(params), words.fix)
    return Reason(code, _fill(words.message, params), _fill(words.action, params), words.fix)


class _Gaps(dict[str, Any]):
    """Shows what is missing instead of failing: an incomplete reason is better than none."""

    def __missing__(self, key: str) -> str:
        return "?"


def _fill(text: Promise, params: Mapping[str, Any]) -> str:
    return str(text) % _Gaps(params) if "%(" in str(text) else str(text)
