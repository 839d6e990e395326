/* Loaded blocking in <head>: a press on what only scripts can do is kept until they are there. Without it, whoever is
   quicker than they are presses a dead button, and a dangerous one does not ask. */
(function () {
  "use strict";
  var SCRIPTED = "button[type=button], [data-confirm], form[data-confirm] button, [data-bs-toggle]";
  var pressed = null;

  function keep(event) {
    var element = event.target.closest(SCRIPTED);
    if (!element) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    pressed = element;
  }

  document.addEventListener("click", keep, true);
  // The others' own beginnings wait for this event, too: theirs come first.
  document.addEventListener("DOMContentLoaded", function () {
    window.setTimeout(function () {
      document.removeEventListener("click", keep, true);
      if (pressed && pressed.isConnected) pressed.click();
    }, 0);
  });
})();
