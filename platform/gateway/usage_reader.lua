-- Reads prompt and completion tokens out of answers as they pass, and leaves them in the dynamic metadata `berth`,
-- key `usage`, for the access log (gateway.request_line). Changes nothing, holds nothing back.
--
--   prompt_tokens, completion_tokens   what the model server said
--   events                             parts of a stream with content since it said so last
--   unread                             true: the answer was too large to be looked into
--
-- A quotation mark inside of a JSON string is escaped: "usage" in quotation marks is a member's name, never a text that
-- somebody let a model say. Of several such members the greatest counts, so that none that a caller gets echoed hides
-- the model server's own.

local WHOLE = 1048576 -- bytes of a JSON answer that are looked through; of what follows only the end
local END = 4096
local LINE = 65536 -- bytes of a stream's line, likewise

local find, match, gmatch, sub = string.find, string.match, string.gmatch, string.sub
local max = math.max

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

local function number(object, pattern)
  return tonumber(match(object, pattern))
end

local function take(usage, prompt, completion)
  if prompt then
    usage.prompt_tokens = max(usage.prompt_tokens or 0, prompt)
  end
  if completion then
    usage.completion_tokens = max(usage.completion_tokens or 0, completion)
    usage.events = nil
  end
  return prompt or completion
end

-- Whether `text` holds a usage object; it is added to `usage`.
local function look(usage, text)
  local found = false
  local _, stop = find(text, '"usage"', 1, true)
  while stop do
    local object = match(text, "^%s*:%s*(%b{})", stop + 1)
    if object then
      local prompt = number(object, '"prompt_tokens"%s*:%s*(%d+)') or number(object, '"input_tokens"%s*:%s*(%d+)')
      local completion = number(object, '"completion_tokens"%s*:%s*(%d+)')
        or number(object, '"output_tokens"%s*:%s*(%d+)')
      if not prompt and not completion then
        prompt = number(object, '"total_tokens"%s*:%s*(%d+)')
      end
      found = take(usage, prompt, completion) and true or found
    end
    _, stop = find(text, '"usage"', stop + 1, true)
  end
  return found
end

-- llama.cpp ends its streams with what it measured, asked for usage or not.
local function look_timings(usage, text)
  local _, stop = find(text, '"timings"', 1, true)
  local object = stop and match(text, "^%s*:%s*(%b{})", stop + 1)
  if not object then
    return false
  end
  local prompt = number(object, '"prompt_n"%s*:%s*(%d+)')
  local cached = number(object, '"cache_n"%s*:%s*(%d+)') or 0
  return take(usage, prompt and prompt + cached, number(object, '"predicted_n"%s*:%s*(%d+)')) and true or false
end

local function says_something(line)
  for name in gmatch(line, '"([%l_]+)"%s*:%s*"[^"]') do
    if SAID[name] then
      return true
    end
  end
  return false
end

local function note(handle, usage)
  handle:streamInfo():dynamicMetadata():set("berth", "usage", usage)
end

local function read_stream(handle)
  local usage, rest = { events = 0 }, ""
  note(handle, usage)
  for chunk in handle:bodyChunks() do
    local text = rest .. chunk:getBytes(0, chunk:length())
    local from, changed = 1, false
    local stop = find(text, "\n", from, true)
    while stop do
      if sub(text, from, from + 4) == "data:" then
        local line = sub(text, from, stop)
        if look(usage, line) or look_timings(usage, line) then
          changed = true
        elseif says_something(line) then
          usage.events = (usage.events or 0) + 1
          changed = true
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
      note(handle, usage)
    end
  end
end

local function read_answer(handle)
  local usage, seen, last, found = {}, 0, "", false
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    seen = seen + size
    if seen <= WHOLE then
      local text = last .. chunk:getBytes(0, size)
      found = look(usage, text) or found
      last = sub(text, -END)
    elseif size < END then
      last = sub(last .. chunk:getBytes(0, size), -END)
    else
      last = chunk:getBytes(size - END, END)
    end
  end
  if seen > WHOLE then
    found = look(usage, last) or found
    usage.unread = not found or nil
  end
  if found or usage.unread then
    note(handle, usage)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if sub(headers:get(":status"), 1, 1) ~= "2" then
    return
  end
  local kind = headers:get("content-type")
  if not kind or (headers:get("content-encoding") or "identity") ~= "identity" then
    return
  end
  if find(kind, "^application/json") then
    read_answer(handle)
  elseif find(kind, "^text/event%-stream") then
    read_stream(handle)
  end
end
