/* Fetching: the whole window once, then every few seconds its newest part, as long as the tab is looked at.
   A fetch that fails is said, leaves the picture as it was and is tried again. */
(function () {
  "use strict";
  var metrics = window.berthMetrics;
  var OFTEN_S = 5; // the length of a slot
  var SELDOM_S = 30; // where one point is of more than COARSE_S
  var COARSE_S = 180;
  var RETRY_S = [2, 5, 10, 30];
  var PATIENCE_S = 20;
  var AGAIN = 2; // so many of the last points are asked for again, and AGAIN_S at least: they may have been half full
  var AGAIN_S = 20;
  var OVER = { 401: "signed-out", 403: "no-access", 404: "no-access" };

  /* span() → {from, to, live}; onPicture(picture, span), onState({kind: ok|failed|ended, why, wait}). */
  function Feed(url, project, say, span, onPicture, onState) {
    this.url = url;
    this.project = project;
    this.say = say;
    this.span = span;
    this.onPicture = onPicture;
    this.onState = onState;
    this.picture = null;
    this.failures = 0;
    this.due = false;
    document.addEventListener("visibilitychange", this.onVisible.bind(this));
  }

  /* Another window: everything anew. What is on its way is not wanted any more. */
  Feed.prototype.open = function () {
    this.picture = null;
    this.failures = 0;
    this.fetch();
  };

  Feed.prototype.question = function (span) {
    var query = new URLSearchParams({ project: this.project, from: span.from, to: span.to });
    var picture = this.picture;
    var last = picture && picture.at.length ? picture.at[picture.at.length - 1] : -1;
    this.part = span.live && last > span.from;
    if (this.part) {
      query.set("from", Math.max(span.from, last - Math.max(AGAIN * picture.step, AGAIN_S)));
      query.set("step", picture.step);
    }
    return this.url + "?" + query;
  };

  Feed.prototype.fetch = function () {
    var feed = this;
    var span = this.span();
    window.clearTimeout(this.timer);
    if (this.abort) this.abort.abort();
    var abort = this.abort = new AbortController();
    var patience = window.setTimeout(function () { abort.abort(); }, PATIENCE_S * 1000);
    var mine = function () { return feed.abort === abort; };
    this.due = false;
    window.fetch(this.question(span), { headers: { Accept: "application/json" }, signal: abort.signal })
      .catch(function () { throw { unreachable: true }; })
      .then(function (answer) {
        return answer.ok ? answer.json() : answer.json().catch(function () { return {}; }).then(function (problem) {
          throw Object.assign(new Error(problem.detail || ""), { status: answer.status });
        });
      })
      .then(function (answer) { if (mine()) feed.take(answer, span); })
      .catch(function (error) { if (mine()) feed.fail(error); })
      .finally(function () { window.clearTimeout(patience); });
  };

  Feed.prototype.take = function (answer, span) {
    var fresh = metrics.merge.picture(answer);
    if (this.part && fresh.step !== this.picture.step) { this.open(); return; }
    this.picture = this.part ? metrics.merge.merge(this.picture, fresh, span.from) : fresh;
    this.failures = 0;
    this.onPicture(this.picture, span);
    this.onState({ kind: "ok" });
    if (span.live) this.plan(this.picture.step > COARSE_S ? SELDOM_S : OFTEN_S);
  };

  Feed.prototype.fail = function (error) {
    // A mistake in drawing is not the server's: it shows up in the browser's console.
    if (!error.status && !error.unreachable) window.setTimeout(function () { throw error; });
    if (OVER[error.status]) { this.onState({ kind: "ended", why: this.say(OVER[error.status]) }); return; }
    var wait = RETRY_S[Math.min(this.failures++, RETRY_S.length - 1)];
    var why = !error.status ? this.say("unreachable")
      : this.say("answered").replace("%s", error.status) + (error.message ? " (" + error.message.replace(/\.$/, "") + ")" : "");
    this.onState({ kind: "failed", why: why, wait: wait });
    this.plan(wait);
  };

  Feed.prototype.plan = function (seconds) {
    var feed = this;
    this.timer = window.setTimeout(function () {
      if (document.hidden) feed.due = true; else feed.fetch();
    }, seconds * 1000);
  };

  Feed.prototype.onVisible = function () {
    if (!document.hidden && this.due) this.fetch();
  };

  metrics.Feed = Feed;
})();
