/* What usage_reader.lua does, compiled: reads prompt and completion tokens out of answers as they pass, and leaves them
 * in the filter state `berth.usage` for the access log. Changes nothing, holds nothing back.
 *
 * An Envoy dynamic module: told of each piece of an answer, and of a stream's end before the log is written. What is
 * noted, and why the greatest of several counts is taken, is said there.
 *
 * Source of the names and their shapes: envoyproxy/envoy, source/extensions/dynamic_modules/abi/abi.h, as of 1.40.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  const char *at;
  size_t size;
} text;

bool envoy_dynamic_module_callback_http_get_body_chunks(void *filter, int body, text *found);
size_t envoy_dynamic_module_callback_http_get_body_chunks_size(void *filter, int body);
bool envoy_dynamic_module_callback_http_get_header(void *filter, int headers, text key, text *found, size_t index,
                                                   size_t *count);
bool envoy_dynamic_module_callback_http_set_filter_state_bytes(void *filter, text key, text value);

enum { RESPONSE_HEADERS = 2, RECEIVED_RESPONSE = 2, CONTINUE = 0 };
enum { WHOLE = 1048576, END = 4096, LINE = 65536, OBJECT = 2048, SLICES = 64 };
static const int64_t NONE = -1, MOST = 1000000000000;

enum kind { UNKNOWN, OTHER, ANSWER, STREAM };

typedef struct {
  enum kind kind;
  uint64_t seen;
  int64_t prompt, completion, parts;
  char *rest; /* of an answer its last END bytes, of a stream the line that has not ended */
  size_t size, room;
} reading;

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static const char *skip(const char *at, const char *end) {
  while (at < end && is_space(*at)) at++;
  return at;
}

/* The number of the first member `"name" : digits`, NONE if there is none or somebody made it up. */
static int64_t number(text in, const char *name) {
  const char *at = in.at, *end = in.at + in.size;
  size_t length = strlen(name);
  while ((at = memmem(at, (size_t)(end - at), name, length))) {
    const char *c = skip(at + length, end);
    at += length;
    if (c == end || *c != ':') continue;
    c = skip(c + 1, end);
    if (c == end || !is_digit(*c)) continue;
    int64_t value = 0;
    for (; c < end && is_digit(*c); c++)
      if (value < MOST) value = value * 10 + (*c - '0');
    return value;
  }
  return NONE;
}

static int64_t greater(int64_t one, int64_t other) { return one != NONE && one < MOST && one > other ? one : other; }

/* Behind `at`: a colon and an object, of OBJECT bytes at most, so that no text costs more than it is long. Its text, or
 * size 0. */
static text object(const char *at, const char *end) {
  text none = {NULL, 0};
  if (end - at > OBJECT) end = at + OBJECT;
  at = skip(at, end);
  if (at == end || *at != ':') return none;
  at = skip(at + 1, end);
  if (at == end || *at != '{') return none;
  int depth = 0;
  for (const char *c = at; c < end; c++) {
    if (*c == '{') depth++;
    if (*c == '}' && --depth == 0) return (text){at, (size_t)(c + 1 - at)};
  }
  return none;
}

static int64_t plus(int64_t one, int64_t other) { return one == NONE ? NONE : one + (other == NONE ? 0 : other); }

/* OpenAI's count holds the tokens that were found in a cache, Anthropic's leaves them out. */
static int64_t input(text in) {
  int64_t asked = number(in, "\"input_tokens\"");
  asked = plus(asked, number(in, "\"cache_read_input_tokens\""));
  return plus(asked, number(in, "\"cache_creation_input_tokens\""));
}

/* All usage objects: the greatest counts. */
static void look(reading *r, text in) {
  static const char name[] = "\"usage\"";
  const char *at = in.at, *end = in.at + in.size;
  while ((at = memmem(at, (size_t)(end - at), name, sizeof name - 1))) {
    at += sizeof name - 1;
    text found = object(at, end);
    if (!found.size) continue;
    int64_t asked = number(found, "\"prompt_tokens\"");
    int64_t said = number(found, "\"completion_tokens\"");
    if (asked == NONE) asked = input(found);
    if (said == NONE) said = number(found, "\"output_tokens\"");
    if (asked == NONE && said == NONE) asked = number(found, "\"total_tokens\"");
    r->prompt = greater(asked, r->prompt);
    r->completion = greater(said, r->completion);
  }
}

/* llama.cpp's own: what it measured. */
static void look_timings(reading *r, text in) {
  static const char name[] = "\"timings\"";
  const char *at = memmem(in.at, in.size, name, sizeof name - 1);
  if (!at) return;
  text found = object(at + sizeof name - 1, in.at + in.size);
  if (!found.size) return;
  r->prompt = greater(plus(number(found, "\"prompt_n\""), number(found, "\"cache_n\"")), r->prompt);
  r->completion = greater(number(found, "\"predicted_n\""), r->completion);
}

static bool is_said(const char *at, size_t size) {
  static const char *const names[] = {"content", "text", "delta", "reasoning", "reasoning_content",
                                      "thinking", "arguments", "partial_json"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strlen(names[i]) == size && !memcmp(names[i], at, size)) return true;
  return false;
}

/* Whether a member that holds a model's words holds any. */
static bool says_something(text in) {
  const char *end = in.at + in.size;
  for (const char *at = in.at; (at = memchr(at, '"', (size_t)(end - at))); at++) {
    const char *name = at + 1, *c = name;
    while (c < end && ((*c >= 'a' && *c <= 'z') || *c == '_')) c++;
    if (c == name || c == end || *c != '"') continue;
    size_t size = (size_t)(c - name);
    c = skip(c + 1, end);
    if (c == end || *c != ':') continue;
    c = skip(c + 1, end);
    if (end - c < 2 || c[0] != '"' || c[1] == '"') continue;
    if (is_said(name, size)) return true;
    at = c + 1; /* a text begins there */
  }
  return false;
}

/* --- a stream's pieces ------------------------------------------------------------------------------------ */

/* Keeps `before` and `in` as the rest. Without memory there is none: some tokens are not seen, and nothing else happens. */
static void keep(reading *r, const char *before, text in) {
  size_t size = strlen(before) + in.size;
  if (!in.size) {
    r->size = 0;
    return;
  }
  if (size > r->room) {
    char *room = malloc(size);
    if (!room) {
      r->size = 0;
      return;
    }
    memcpy(room, before, strlen(before));
    memcpy(room + strlen(before), in.at, in.size);
    free(r->rest);
    r->rest = room;
    r->room = size;
  } else {
    memmove(r->rest + strlen(before), in.at, in.size); /* `in` may be a part of `rest` */
    memcpy(r->rest, before, strlen(before));
  }
  r->size = size;
}

static text end_of(text in, size_t size) {
  return in.size > size ? (text){in.at + in.size - size, size} : in;
}

static void read_line(reading *r, text line) {
  if (line.size < 5 || memcmp(line.at, "data:", 5)) return;
  int64_t prompt = r->prompt, completion = r->completion;
  look(r, line);
  look_timings(r, line);
  if (r->completion != completion)
    r->parts = 0;
  else if (r->prompt == prompt && says_something(line))
    r->parts++;
}

static void read_stream(reading *r, text in) {
  const char *from = in.at, *end = in.at + in.size, *stop;
  while ((stop = memchr(from, '\n', (size_t)(end - from)))) {
    read_line(r, (text){from, (size_t)(stop + 1 - from)});
    from = stop + 1;
  }
  text rest = {from, (size_t)(end - from)};
  if (rest.size > LINE)
    keep(r, "data:", end_of(rest, END));
  else
    keep(r, "", rest);
}

static void read_answer(reading *r, text in, size_t received) {
  r->seen += received;
  if (r->seen <= WHOLE) look(r, in);
  keep(r, "", end_of(in, END));
}

static enum kind kind_of(void *filter) {
  static const text type = {"content-type", 12}, encoding = {"content-encoding", 16};
  text found;
  if (!envoy_dynamic_module_callback_http_get_header(filter, RESPONSE_HEADERS, type, &found, 0, NULL)) return OTHER;
  if (found.size >= 16 && !memcmp(found.at, "application/json", 16)) return ANSWER;
  if (found.size < 17 || memcmp(found.at, "text/event-stream", 17)) return OTHER;
  return envoy_dynamic_module_callback_http_get_header(filter, RESPONSE_HEADERS, encoding, &found, 0, NULL) ? OTHER
                                                                                                           : STREAM;
}

static void note(void *filter, reading *r) {
  static const text key = {"berth.usage", 11};
  char said[96];
  if (r->kind == ANSWER) {
    text last = {r->rest, r->size};
    if (r->seen > WHOLE && r->size) look(r, last);
    if (r->prompt == NONE && r->completion == NONE && r->size) look_timings(r, last);
    if (r->prompt == NONE && r->completion == NONE) {
      if (r->seen > WHOLE) envoy_dynamic_module_callback_http_set_filter_state_bytes(filter, key, (text){"unread", 6});
      return;
    }
  }
  char asked[24] = "-", answered[24] = "-";
  if (r->prompt != NONE) snprintf(asked, sizeof asked, "%lld", (long long)r->prompt);
  if (r->completion != NONE) snprintf(answered, sizeof answered, "%lld", (long long)r->completion);
  int size = snprintf(said, sizeof said, "%s %s %lld", asked, answered, (long long)r->parts);
  envoy_dynamic_module_callback_http_set_filter_state_bytes(filter, key, (text){said, (size_t)size});
}

/* --- what Envoy calls ------------------------------------------------------------------------------------- */

#define CALLED __attribute__((visibility("default")))

/* The interface's own version, not Envoy's. */
CALLED const char *envoy_dynamic_module_on_program_init(void) { return "v0.2.0"; }

CALLED const void *envoy_dynamic_module_on_http_filter_config_new(void *envoy, text name, text config) {
  (void)envoy, (void)name, (void)config;
  return "usage";
}

CALLED void envoy_dynamic_module_on_http_filter_config_destroy(const void *config) { (void)config; }

CALLED const void *envoy_dynamic_module_on_http_filter_per_route_config_new(text name, text config) {
  (void)name, (void)config;
  return NULL;
}

CALLED void envoy_dynamic_module_on_http_filter_per_route_config_destroy(const void *config) { (void)config; }

CALLED const void *envoy_dynamic_module_on_http_filter_new(const void *config, void *filter) {
  (void)config, (void)filter;
  reading *r = calloc(1, sizeof *r);
  if (r) r->prompt = r->completion = NONE;
  return r;
}

CALLED void envoy_dynamic_module_on_http_filter_destroy(const void *given) {
  reading *r = (reading *)given;
  free(r->rest);
  free(r);
}

CALLED int envoy_dynamic_module_on_http_filter_response_body(void *filter, const void *given, bool last) {
  (void)last;
  reading *r = (reading *)given;
  if (r->kind == OTHER) return CONTINUE;
  if (r->kind == UNKNOWN) r->kind = kind_of(filter);
  if (r->kind == OTHER) return CONTINUE;
  text pieces[SLICES];
  size_t count = envoy_dynamic_module_callback_http_get_body_chunks_size(filter, RECEIVED_RESPONSE);
  text *found = count > SLICES ? malloc(count * sizeof *found) : pieces;
  if (!count || !found || !envoy_dynamic_module_callback_http_get_body_chunks(filter, RECEIVED_RESPONSE, found)) {
    if (found != pieces) free(found);
    return CONTINUE;
  }
  for (size_t i = 0; i < count; i++) {
    text in = found[i], joined = in;
    char *room = NULL;
    if (r->size) {
      room = malloc(r->size + in.size);
      if (room) {
        memcpy(room, r->rest, r->size);
        memcpy(room + r->size, in.at, in.size);
        joined = (text){room, r->size + in.size};
      }
    }
    if (r->kind == ANSWER)
      read_answer(r, joined, in.size);
    else
      read_stream(r, joined);
    free(room);
  }
  if (found != pieces) free(found);
  return CONTINUE;
}

CALLED void envoy_dynamic_module_on_http_filter_stream_complete(void *filter, const void *given) {
  reading *r = (reading *)given;
  if (r->kind == ANSWER || r->kind == STREAM) note(filter, r);
}

CALLED int envoy_dynamic_module_on_http_filter_request_headers(void *filter, const void *given, bool last) {
  (void)filter, (void)given, (void)last;
  return CONTINUE;
}
CALLED int envoy_dynamic_module_on_http_filter_request_body(void *filter, const void *given, bool last) {
  (void)filter, (void)given, (void)last;
  return CONTINUE;
}
CALLED int envoy_dynamic_module_on_http_filter_request_trailers(void *filter, const void *given) {
  (void)filter, (void)given;
  return CONTINUE;
}
CALLED int envoy_dynamic_module_on_http_filter_response_headers(void *filter, const void *given, bool last) {
  (void)filter, (void)given, (void)last;
  return CONTINUE;
}
CALLED int envoy_dynamic_module_on_http_filter_response_trailers(void *filter, const void *given) {
  (void)filter, (void)given;
  return CONTINUE;
}

/* What Envoy asks for, and this has no use for. */
CALLED int envoy_dynamic_module_on_http_filter_local_reply(void *filter, const void *given, int status, text details,
                                                           bool reset) {
  (void)filter, (void)given, (void)status, (void)details, (void)reset;
  return CONTINUE;
}
CALLED void envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(void *filter,
                                                                                             const void *given) {
  (void)filter, (void)given;
}
CALLED void envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(void *filter,
                                                                                            const void *given) {
  (void)filter, (void)given;
}
#define UNUSED(name) \
  CALLED void envoy_dynamic_module_on_http_filter_##name(void) {}
UNUSED(scheduled)
UNUSED(http_callout_done)
UNUSED(http_stream_headers)
UNUSED(http_stream_data)
UNUSED(http_stream_trailers)
UNUSED(http_stream_complete)
UNUSED(http_stream_reset)
