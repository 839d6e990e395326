/* An invitation's secret stands behind the # of its link, which browsers send to nobody. Post it, and take it out of the
   address, so that neither the history nor a copied address holds it. Without this script the link can be pasted. */
(function () {
  "use strict";

  var secret = window.location.hash.slice(1);
  if (!secret) return;
  window.history.replaceState(null, "", window.location.pathname);
  var form = document.getElementById("open-invitation");
  form.elements.secret.value = secret;
  form.submit();
})();
