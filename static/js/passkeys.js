/* Passkeys: forms with data-passkey="create" or "get" ask the browser for a credential and send it along. The options
   stand in the JSON script that data-options names, or come from the address in data-options-from. Conversions between
   JSON and buffers are webauthn-json's (allauth brings it). */
(function () {
  "use strict";

  var able = Boolean(window.PublicKeyCredential && navigator.credentials && window.webauthnJSON);

  function say(form, trouble) {
    form.querySelectorAll("[data-passkey-trouble]").forEach(function (notice) {
      notice.hidden = notice.getAttribute("data-passkey-trouble") !== trouble;
    });
  }

  function optionsOf(form) {
    var script = form.getAttribute("data-options");
    if (script) return Promise.resolve(JSON.parse(document.getElementById(script).textContent));
    return fetch(form.getAttribute("data-options-from"), {
      headers: { Accept: "application/json" },
      credentials: "same-origin"
    }).then(function (answer) {
      if (!answer.ok) throw new Error("server");
      return answer.json();
    }).then(function (body) { return body.request_options; }, function () { throw new Error("server"); });
  }

  /* A passkey that signs in by itself must be findable without a name, and ask for finger, face or PIN. */
  function wanted(form, options) {
    var alone = form.querySelector("[name=passwordless]");
    var choice = options.publicKey.authenticatorSelection;
    if (!choice || !alone) return options;
    choice.residentKey = alone.checked ? "required" : "discouraged";
    choice.requireResidentKey = alone.checked;
    if (alone.checked) choice.userVerification = "required";
    return options;
  }

  function ask(form) {
    var making = form.getAttribute("data-passkey") === "create";
    return optionsOf(form).then(function (options) {
      return making ? window.webauthnJSON.create(wanted(form, options)) : window.webauthnJSON.get(options);
    });
  }

  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (!form.matches("form[data-passkey]") || form.passkeyReady) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (form.passkeyAsking) return;
    if (!able) { say(form, "unable"); return; }
    say(form, "");
    form.passkeyAsking = true;
    ask(form).then(function (credential) {
      form.querySelector("[name=credential]").value = JSON.stringify(credential);
      form.passkeyReady = true;
      form.requestSubmit();
    }, function (error) {
      form.passkeyAsking = false;
      say(form, error.message === "server" ? "server" : "refused");
    });
  }, true);

  window.addEventListener("pageshow", function () {
    document.querySelectorAll("form[data-passkey]").forEach(function (form) {
      form.passkeyReady = form.passkeyAsking = false;
      if (!able) say(form, "unable");
    });
  });
})();
