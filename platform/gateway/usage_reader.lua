-- Reads prompt and completion tokens out of answers as they pass, and leaves them in the filter state `berth.usage` for
-- the access log (gateway.request_line). Changes nothing, holds nothing back. Where there is a C compiler usage_reader.c
-- does the same, faster.
--
--   "9 2 0"    prompt and completion tokens that the model server named, "-" for one that it did not; then the parts
--              of a stream with content since it named any
--   "unread"   the answer was too large to be looked into
--
-- A quotation mark inside of a JSON string is escaped: "usage" in quotation marks is a member's name, never a text that
-- somebody let a model say. Of several such members the greatest counts, so that none that a caller gets echoed hides
-- the model server's own.
--
-- Every object that Envoy hands out costs about a microsecond a request, which is why there are so few below. Compiled,
-- this takes a third longer: no piece of it runs long enough to pay for what the compiler tries and gives up.

jit.off()

local WHOLE = 1048576 -- bytes of a JSON answer that are looked through; of what follows only the end
local END = 4096
local LINE = 65536 -- bytes of a stream's line, likewise
local OBJECT = 2048 -- bytes of what is named usage, and no more: a text full of open ones would cost its square
local MOST = 1e12 -- tokens; whoever says more made it up

local find, match, gmatch, sub, byte = string.find, string.match, string.gmatch, string.sub, string.byte
local OPEN, CLOSE = byte("{}", 1, 2)
local AT_ONCE = 4096 -- bytes of an answer that comes in one piece, as model servers write them
local DIGITS = 13 -- a number of tokens has fewer

-- Texts that a model says, by the names that model servers give them.
local SAID = {
  content = true,
  text = true,
  delta = true,
  reasoning = true,
  reasoning_content = true,
  thinking = true,
  arguments = true,
  partial_json = true,
}

local function greater(one, other)
  one = tonumber(one)
  return one and one < MOST and (not other or one > other) and one or other
end

-- OpenAI's count holds the tokens that were found in a cache, Anthropic's leaves them out.
local function input(object)
  local asked = tonumber(match(object, '"input_tokens"%s*:%s*(%d+)'))
  local found = tonumber(match(object, '"cache_read_input_tokens"%s*:%s*(%d+)')) or 0
  local kept = tonumber(match(object, '"cache_creation_input_tokens"%s*:%s*(%d+)')) or 0
  return asked and asked + found + kept
end

-- prompt and completion, at least those given, of all usage objects in `text`
local function look(text, prompt, completion)
  local _, stop = find(text, '"usage"', 1, true)
  while stop do
    local object = match(sub(text, stop + 1, stop + OBJECT), "^%s*:%s*(%b{})")
    if object then
      local asked = match(object, '"prompt_tokens"%s*:%s*(%d+)') or input(object)
      local said = match(object, '"completion_tokens"%s*:%s*(%d+)') or match(object, '"output_tokens"%s*:%s*(%d+)')
      if not asked and not said then
        asked = match(object, '"total_tokens"%s*:%s*(%d+)')
      end
      prompt, completion = greater(asked, prompt), greater(said, completion)
    end
    _, stop = find(text, '"usage"', stop + 1, true)
  end
  return prompt, completion
end

-- llama.cpp ends its streams, and the answers of its own kind, with what it measured, asked for usage or not.
local function look_timings(text, prompt, completion)
  local _, stop = find(text, '"timings"', 1, true)
  local object = stop and match(sub(text, stop + 1, stop + OBJECT), "^%s*:%s*(%b{})")
  if object then
    local asked = tonumber(match(object, '"prompt_n"%s*:%s*(%d+)'))
    local cached = tonumber(match(object, '"cache_n"%s*:%s*(%d+)')) or 0
    prompt = greater(asked and asked + cached, prompt)
    completion = greater(match(object, '"predicted_n"%s*:%s*(%d+)'), completion)
  end
  return prompt, completion
end

local function bytes(chunk)
  return chunk:getBytes(0, chunk:length())
end

local function says_something(line)
  for name in gmatch(line, '"([%l_]+)"%s*:%s*"[^"]') do
    if SAID[name] then
      return true
    end
  end
  return false
end

local function leave(handle, text)
  handle:streamInfo():filterState():set("berth.usage", "envoy.string", text)
end

local function note(handle, prompt, completion, events)
  leave(handle, (prompt or "-") .. " " .. (completion or "-") .. " " .. events)
end

local function read_stream(handle, chunks, text)
  local prompt, completion, events, rest = nil, nil, 0, ""
  note(handle, prompt, completion, events)
  while text do
    local from, changed = 1, false
    local stop = find(text, "\n", from, true)
    while stop do
      if sub(text, from, from + 4) == "data:" then
        local line = sub(text, from, stop)
        local asked, said = look_timings(line, look(line, prompt, completion))
        if said ~= completion then
          prompt, completion, events, changed = asked, said, 0, true
        elseif asked ~= prompt then
          prompt, changed = asked, true
        elseif says_something(line) then
          events, changed = events + 1, true
        end
      end
      from = stop + 1
      stop = find(text, "\n", from, true)
    end
    rest = sub(text, from)
    if #rest > LINE then
      rest = "data:" .. sub(rest, -END)
    end
    if changed then
      note(handle, prompt, completion, events)
    end
    local chunk = chunks()
    text = chunk and rest .. bytes(chunk)
  end
end

-- What nearly all answers are: one piece, with the usage in it once, in whole numbers. As it is noted, or nil.
--
-- An answer is full of quotation marks, so what is looked for begins with a letter.
local function plain(text)
  local from, stop = find(text, 'usage":', 1, true)
  if not stop or #text >= AT_ONCE or byte(text, -1) ~= CLOSE or find(text, 'usage":', stop, true) then
    return nil
  end
  local asked, said = match(text, '^"usage":{"prompt_tokens":(%d+),"completion_tokens":(%d+)[,}]', from - 1)
  if not asked then
    asked = match(text, '^"usage":{[^{}]-"prompt_tokens":(%d+)[,}]', from - 1)
    said = match(text, '^"usage":{[^{}]-"completion_tokens":(%d+)[,}]', from - 1)
  end
  return asked and said and #asked < DIGITS and #said < DIGITS and asked .. " " .. said .. " 0"
end

local function read_answer(handle, chunks, text)
  local seen, last, prompt, completion = #text, "", nil, nil
  while true do
    if seen <= WHOLE then
      text = last .. text
      prompt, completion = look(text, prompt, completion)
    end
    last = sub(text, -END)
    local chunk = chunks()
    if not chunk then
      break
    end
    local size = chunk:length()
    seen = seen + size
    if seen <= WHOLE then
      text = chunk:getBytes(0, size)
    elseif size < END then
      text = last .. chunk:getBytes(0, size)
    else
      text = chunk:getBytes(size - END, END)
    end
  end
  if seen > WHOLE then
    prompt, completion = look(last, prompt, completion)
  end
  if not prompt and not completion then
    prompt, completion = look_timings(last)
  end
  if prompt or completion then
    note(handle, prompt, completion, 0)
  elseif seen > WHOLE then
    leave(handle, "unread")
  end
end

function envoy_on_response(handle)
  local chunks = handle:bodyChunks()
  local chunk = chunks()
  if not chunk then
    return
  end
  local text = bytes(chunk)
  local usage = byte(text) == OPEN and plain(text)
  if usage then
    return leave(handle, usage) -- the rest, if only Envoy's word that there is none, passes without a look
  end
  local headers = handle:headers()
  local kind = headers:get("content-type")
  if kind and find(kind, "^application/json") then
    read_answer(handle, chunks, text)
  elseif kind and find(kind, "^text/event%-stream") and not headers:get("content-encoding") then
    read_stream(handle, chunks, text)
  end
end
