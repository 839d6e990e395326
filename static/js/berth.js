/* What every console page does: copy, confirm, theme, menu, relative times, secrets. No inline handlers, no eval. */
(function () {
  "use strict";

  var say = function (name) {
    return document.body.getAttribute("data-say-" + name) || name;
  };

  /* ---- announce to screen readers ---- */
  function announce(text) {
    var region = document.getElementById("announce");
    if (region) {
      region.textContent = "";
      window.setTimeout(function () { region.textContent = text; }, 20);
    }
  }

  /* ---- copy: data-copy="text", or data-copy-from="#selector" of what holds it ---- */
  function textOf(button) {
    if (button.hasAttribute("data-copy")) return button.getAttribute("data-copy");
    var source = document.querySelector(button.getAttribute("data-copy-from"));
    if (!source) return "";
    return "value" in source ? source.value : source.textContent;
  }

  function copyText(text) {
    if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
    // Plain http on another host has no clipboard API: select and use the old command.
    return new Promise(function (resolve, reject) {
      var area = document.createElement("textarea");
      area.value = text;
      area.className = "visually-hidden";
      area.setAttribute("readonly", "");
      var host = document.querySelector("dialog[open]") || document.body;
      host.appendChild(area);
      area.select();
      var done = document.execCommand("copy");
      area.remove();
      if (done) resolve(); else reject(new Error("copy refused"));
    });
  }

  function copied(button) {
    button.classList.add("is-copied");
    button.setAttribute("data-said", say("copied"));
    announce(say("copied"));
    window.clearTimeout(button.copyTimer);
    button.copyTimer = window.setTimeout(function () {
      button.classList.remove("is-copied");
      button.removeAttribute("data-said");
    }, 1600);
  }

  document.addEventListener("click", function (event) {
    var button = event.target.closest("[data-copy],[data-copy-from]");
    if (!button) return;
    event.preventDefault();
    copyText(textOf(button)).then(
      function () { copied(button); },
      function () { announce(say("copy-failed")); button.setAttribute("data-said", say("copy-failed")); }
    );
  });

  /* ---- confirm: data-confirm="question" on a button, link or form; data-confirm-type="word" must be typed ---- */
  var dialog = null;
  var pending = null;

  function makeDialog() {
    dialog = document.createElement("dialog");
    dialog.className = "ask";
    dialog.setAttribute("aria-labelledby", "ask-title");
    dialog.innerHTML =
      '<form method="dialog" class="ask-body"><h2 id="ask-title"></h2><p class="ask-text"></p>' +
      '<div class="ask-typed" hidden><label class="form-label" for="ask-input"></label>' +
      '<input class="form-control font-monospace" id="ask-input" autocomplete="off" spellcheck="false"></div>' +
      '<div class="ask-actions"><button type="button" class="btn" value="no"></button>' +
      '<button type="submit" class="btn btn-danger" value="yes"></button></div></form>';
    document.body.appendChild(dialog);
    dialog.querySelector("[value=no]").addEventListener("click", function () { dialog.close("no"); });
    dialog.querySelector("form").addEventListener("submit", function (event) {
      if (dialog.querySelector("[value=yes]").disabled) event.preventDefault();
    });
    dialog.querySelector("#ask-input").addEventListener("input", function (event) {
      dialog.querySelector("[value=yes]").disabled = event.target.value.trim() !== dialog.wanted;
    });
    dialog.addEventListener("close", function () {
      var go = pending;
      pending = null;
      if (dialog.returnValue === "yes" && go) go();
    });
  }

  function ask(element, go) {
    if (!dialog) makeDialog();
    var typed = element.getAttribute("data-confirm-type");
    dialog.querySelector("#ask-title").textContent = element.getAttribute("data-confirm-title") || say("sure");
    dialog.querySelector(".ask-text").textContent = element.getAttribute("data-confirm");
    dialog.querySelector("[value=no]").textContent = say("cancel");
    var yes = dialog.querySelector("[value=yes]");
    yes.textContent = element.getAttribute("data-confirm-yes") || say("confirm");
    yes.classList.toggle("btn-danger", !element.hasAttribute("data-confirm-safe"));
    yes.classList.toggle("btn-primary", element.hasAttribute("data-confirm-safe"));
    yes.disabled = Boolean(typed);
    dialog.wanted = typed;
    dialog.querySelector(".ask-typed").hidden = !typed;
    dialog.querySelector("#ask-input").value = "";
    dialog.querySelector(".ask-typed label").textContent = typed ? say("type").replace("%s", typed) : "";
    dialog.returnValue = "no";
    pending = go;
    dialog.showModal();
    (typed ? dialog.querySelector("#ask-input") : dialog.querySelector("[value=no]")).focus();
  }

  document.addEventListener("click", function (event) {
    var element = event.target.closest("[data-confirm]");
    if (!element || element.tagName === "FORM" || element.confirmed) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    ask(element, function () {
      element.confirmed = true;
      element.click();
      element.confirmed = false;
    });
  }, true);

  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (!form.matches("form[data-confirm]") || form.confirmed) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    var submitter = event.submitter;
    ask(form, function () {
      form.confirmed = true;
      form.requestSubmit(submitter || undefined);
      form.confirmed = false;
    });
  }, true);

  /* ---- a press is a click, also where the page moves meanwhile: the button that was left in place of another element
     is not clicked by the browser, whose target is then what they have in common ---- */
  var pressed = null;
  document.addEventListener("pointerdown", function (event) {
    var button = event.button === 0 && event.target.closest("button");
    pressed = button ? { button: button, x: event.clientX, y: event.clientY } : null;
  }, true);
  document.addEventListener("pointerup", function (event) {
    var at = pressed;
    pressed = null;
    if (!at || !at.button.isConnected || at.button.contains(event.target)) return;
    if (Math.hypot(event.clientX - at.x, event.clientY - at.y) < 4) at.button.click();
  }, true);

  /* ---- one click is one request: forms with data-once, and every POST form of the console ---- */
  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (event.defaultPrevented || form.method !== "post" || form.hasAttribute("data-many")) return;
    if (form.submitting) { event.preventDefault(); return; }
    form.submitting = true;
    form.classList.add("is-sending");
  });
  window.addEventListener("pageshow", function () {
    document.querySelectorAll("form.is-sending").forEach(function (form) {
      form.submitting = false;
      form.classList.remove("is-sending");
    });
  });

  /* ---- theme, menu, secrets, password fields ---- */
  function markTheme() {
    var choice = document.documentElement.getAttribute("data-theme-choice");
    document.querySelectorAll("[data-theme-set]").forEach(function (button) {
      button.setAttribute("aria-pressed", String(button.getAttribute("data-theme-set") === choice));
    });
  }

  document.addEventListener("click", function (event) {
    var theme = event.target.closest("[data-theme-set]");
    if (theme) {
      window.berthTheme.choose(theme.getAttribute("data-theme-set"));
      markTheme();
    }
    var menu = event.target.closest("[data-menu-toggle]");
    if (menu) {
      var open = document.body.classList.toggle("menu-open");
      document.querySelectorAll("button[data-menu-toggle]").forEach(function (button) {
        button.setAttribute("aria-expanded", String(open));
      });
    }
    var eye = event.target.closest("[data-reveal]");
    if (eye) {
      var field = document.querySelector(eye.getAttribute("data-reveal"));
      var shown = field.type === "text";
      field.type = shown ? "password" : "text";
      eye.setAttribute("aria-pressed", String(!shown));
    }
    var closer = event.target.closest("[data-dismiss]");
    if (closer) closer.closest(closer.getAttribute("data-dismiss")).remove();
  });

  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape" && document.body.classList.contains("menu-open")) {
      document.body.classList.remove("menu-open");
    }
    var typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
      var search = document.querySelector("[data-search]");
      if (search) { event.preventDefault(); search.focus(); search.select(); }
    }
  });

  document.addEventListener("change", function (event) {
    if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
  });

  /* Popper leaves an empty style attribute behind; a copy of it (htmx's history) would offend the strict CSP. */
  document.addEventListener("hidden.bs.dropdown", function (event) {
    var menu = event.target.parentNode.querySelector(".dropdown-menu");
    window.setTimeout(function () { if (menu && menu.hasAttribute("style") && !menu.classList.contains("show")) menu.removeAttribute("style"); }, 0);
  });

  /* ---- times: <time data-relative datetime=…>, <span data-elapsed-since=…>, <span data-eta-at=… data-eta-late-at=…> ---- */
  var lang = document.documentElement.lang || "en";
  var relative = new Intl.RelativeTimeFormat(lang, { numeric: "auto" });
  var UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];

  function ago(date) {
    var seconds = (date.getTime() - Date.now()) / 1000;
    for (var i = 0; i < UNITS.length; i++) {
      if (Math.abs(seconds) >= UNITS[i][1]) return relative.format(Math.round(seconds / UNITS[i][1]), UNITS[i][0]);
    }
    return Math.abs(seconds) < 10 ? say("now") : relative.format(Math.round(seconds), "second");
  }

  function duration(ms) {
    var s = Math.max(0, ms) / 1000;
    if (s < 10) return s.toFixed(1) + " s";
    if (s < 60) return Math.floor(s) + " s";
    if (s < 3600) return Math.floor(s / 60) + " min " + Math.floor(s % 60) + " s";
    return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  }

  /* Rounded up as endpoints/estimates.py does it. */
  function about(seconds) {
    var step = seconds <= 10 ? 1 : seconds <= 60 ? 5 : seconds <= 180 ? 10 : seconds <= 3600 ? 60 : 300;
    return Math.ceil(seconds / step) * step;
  }

  function span(s) {
    var part = function (count, unit) { return count ? " " + count + " " + unit : ""; };
    if (s < 60) return s + " s";
    if (s < 3600) return Math.floor(s / 60) + " min" + part(s % 60, "s");
    return Math.floor(s / 3600) + " h" + part(Math.floor((s % 3600) / 60), "min");
  }

  /* A pull's pace wavers: what was said to be left grows only when it has grown by a fifth. */
  function remaining(element) {
    var now = Date.now();
    var late = now >= new Date(element.getAttribute("data-eta-late-at")).getTime();
    element.classList.toggle("is-late", late);
    if (late) return say("eta-late");
    var left = Math.max(0, new Date(element.getAttribute("data-eta-at")).getTime() - now) / 1000;
    var said = element.berthSaid;
    if (said === undefined || left < said || left > said * 1.2 + 1) said = element.berthSaid = about(left);
    return left < 3 ? say("eta-soon") : say("eta").replace("%s", span(said));
  }

  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  var local = new Intl.DateTimeFormat(lang, { dateStyle: "medium", timeStyle: "medium" });
  function times(root) {
    root.querySelectorAll("time[data-relative]").forEach(function (element) {
      var date = new Date(element.dateTime);
      setText(element, ago(date));
      if (!element.title) element.title = local.format(date);
    });
    root.querySelectorAll("time[data-local]").forEach(function (element) {
      setText(element, local.format(new Date(element.dateTime)));
    });
    elapsed(root);
  }
  function elapsed(root) {
    root.querySelectorAll("[data-eta-at]").forEach(function (element) { setText(element, remaining(element)); });
    root.querySelectorAll("[data-elapsed-since]").forEach(function (element) {
      setText(element, duration(Date.now() - new Date(element.getAttribute("data-elapsed-since")).getTime()));
    });
  }
  window.setInterval(function () { if (!document.hidden) elapsed(document); }, 500);
  window.setInterval(function () { if (!document.hidden) times(document); }, 15000);
  document.addEventListener("visibilitychange", function () { if (!document.hidden) times(document); });
  document.addEventListener("htmx:load", function (event) { times(event.target.parentNode || document); });
  document.addEventListener("berth:swapped", function () { times(document); });

  /* ---- a failed htmx request is said, not swallowed ---- */
  ["htmx:responseError", "htmx:sendError", "htmx:timeout"].forEach(function (name) {
    document.addEventListener(name, function () { toast(say("request-failed"), "danger"); });
  });

  function toast(text, kind) {
    var box = document.getElementById("toasts");
    if (!box) return;
    var item = document.createElement("div");
    item.className = "toast-line toast-" + kind;
    item.setAttribute("role", "alert");
    item.textContent = text;
    box.appendChild(item);
    window.setTimeout(function () { item.remove(); }, 8000);
  }

  /* More tabs than a narrow screen shows: the current one is in sight. */
  var here = document.querySelector(".tabs [aria-current]");
  if (here) {
    var bar = here.parentNode;
    bar.scrollLeft = here.offsetLeft - bar.offsetLeft - (bar.clientWidth - here.offsetWidth) / 2;
  }

  window.berth = { announce: announce, toast: toast, duration: duration, say: say, times: times };
  markTheme();
  times(document);
})();
