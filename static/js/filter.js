/* A search field that hides what does not match: data-filter="#selector" of what holds the labels. */
(function () {
  "use strict";
  document.addEventListener("input", function (event) {
    var target = event.target.getAttribute && event.target.getAttribute("data-filter");
    if (!target) return;
    var wanted = event.target.value.trim().toLowerCase();
    document.querySelectorAll(target + " > label").forEach(function (label) {
      // What is ticked stays in sight.
      label.hidden = !label.querySelector("input").checked && label.textContent.toLowerCase().indexOf(wanted) < 0;
    });
  });
})();
