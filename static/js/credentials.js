/* The page that shows a secret once. Reloading goes to the list, and leaving wipes the secret, so that the browser's
   back button, which may revive the page from memory, finds nothing. */
(function () {
  "use strict";

  var page = document.getElementById("credentials");
  if (!page) return;
  // This page is the answer to a POST: a reload would send it again. From here on it is a plain visit of the list.
  window.history.replaceState(null, "", page.getAttribute("data-leave-to"));

  page.addEventListener("click", function (event) {
    var button = event.target.closest("[data-download]");
    if (!button) return;
    var text = document.querySelector(button.getAttribute("data-download")).textContent;
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = page.getAttribute("data-file");
    link.click();
    window.setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
  });

  window.addEventListener("pagehide", function () {
    page.remove();
    document.getElementById("credentials-gone").hidden = false;
  });
})();
