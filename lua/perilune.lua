-- The module `perilune`, as scripts see it: argument checks, classes and sugar over the native functions.
-- Runs once in each VM before the script; `native` and `libraries` come from the host.
local native, libraries, about = ...

local error, pairs, pcall, rawget, rawset, setmetatable, tostring, type =
  error, pairs, pcall, rawget, rawset, setmetatable, tostring, type
local gsub = string.gsub

local p = { realm = about.realm, script = about.script, instance = about.instance, state = {} }
for name, library in pairs(libraries) do
  p[name] = library
end

-- Misuse is the programmer's: the error points at the calling line.
local function expect(name, position, value, wanted)
  if type(value) ~= wanted then
    local text = "bad argument #%d to '%s' (%s expected, got %s)"
    error(text:format(position, name, wanted, value == nil and "no value" or type(value)), 3)
  end
end

local function expect_options(name, options, known)
  if options == nil then
    return {}
  end
  if type(options) ~= "table" then
    error(("bad options to '%s' (table expected, got %s)"):format(name, type(options)), 3)
  end
  for key, value in pairs(options) do
    local wanted, word = known[key], nil
    if type(wanted) == "table" then
      wanted, word = wanted[1], wanted[2]
    end
    if not wanted then
      error(("unknown option '%s' of '%s'"):format(tostring(key), name), 3)
    elseif type(value) ~= wanted and (value ~= word or word == nil) then
      local either = word and (' or "%s"'):format(word) or ""
      error(("option '%s' of '%s' must be a %s%s, got %s"):format(key, name, wanted, either, type(value)), 3)
    end
  end
  return options
end

local function expect_seconds(name, value, least)
  expect(name, 1, value, "number")
  if not (value >= least and value < 1e9) then
    error(("bad argument #1 to '%s' (seconds from %g, got %s)"):format(name, least, tostring(value)), 3)
  end
end

-- Natives blame the line that calls them, which is one of this file: the script's line is meant. (Where a native is
-- called last, as in `return native.call(…)`, this is so by itself.)
local function blamed(ok, ...)
  if ok then
    return ...
  end
  local failure = ...
  if type(failure) == "string" then
    failure = gsub(failure, "^perilune:%d+: ", "")
  end
  error(failure, 3)
end

-- Objects the host makes: fields are raw, the class supplies the rest.
local empty = libraries.map

local function on_demand(methods)
  return function(self, key)
    if key == "kwargs" then
      local kwargs = empty({})
      rawset(self, "kwargs", kwargs)
      return kwargs
    end
    return methods[key]
  end
end

local classes = {
  call = { __name = "perilune.call" },
  event = { __name = "perilune.event", __index = on_demand({}) },
  result = { __name = "perilune.result" },
  error = { __name = "perilune.error", __index = on_demand({}) },
}

local PASSTHRU = { ppt_scheme = "string", ppt_serializer = "string", ppt_cipher = "string", ppt_keyid = "string" }

-- The options of a function that may send passthru payloads.
local function with_passthru(known)
  for name, kind in pairs(PASSTHRU) do
    known[name] = kind
  end
  return known
end

local function next_chunk(call)
  if not rawget(call, "begun") then
    rawset(call, "begun", true)
    return call.args, call.kwargs
  end
  if native.cancelled(call.request) then
    error(setmetatable({ uri = "wamp.error.canceled", args = { "the call is over" } }, classes.error), 2)
  end
  local args, kwargs = native.chunk(call.request)
  if args then
    return args, kwargs or empty({})
  end
end

local call_methods = on_demand({
  -- A progressive result, if the caller asked for them; says whether it was sent.
  progress = function(self, args, kwargs)
    return native.progress(self.request, args, kwargs)
  end,
  -- For `for args, kwargs in call:chunks() do`: the input of the call, chunk by chunk, from where the last such loop
  -- has stopped.
  chunks = function(self)
    return next_chunk, self
  end,
  -- The results of the call are in an encoding of the application's own.
  passthru = function(self, options)
    expect("passthru", 1, options, "table")
    blamed(pcall(native.passthru, self.request, expect_options("passthru", options, PASSTHRU)))
  end,
})

function classes.call.__index(self, key)
  if key == "cancelled" then
    return native.cancelled(self.request)
  elseif key == "more" then
    return native.more(self.request)
  end
  return call_methods(self, key)
end

classes.result.__index = on_demand({
  -- Of a progressive result: gives up the call it belongs to.
  cancel = function(self, mode)
    local request = rawget(self, "request")
    if request then
      blamed(pcall(native.cancel_call, request, mode))
    end
  end,
})

function classes.error.__tostring(self)
  local args = rawget(self, "args")
  local first = type(args) == "table" and args[1] or nil
  if first == nil then
    return tostring(rawget(self, "uri"))
  end
  return tostring(rawget(self, "uri")) .. ": " .. tostring(first)
end

local timer_methods = {
  -- Stops the timer; harmless if it is over.
  cancel = function(self)
    native.cancel_timer(self.timer)
  end,
}

local function timer(id)
  return setmetatable({ timer = id }, { __index = timer_methods })
end

local function handle(kind, index, uri)
  local function give_up(self)
    return native.withdraw(kind, self.index)
  end
  return setmetatable({ index = index, uri = uri }, {
    __index = function(_, key)
      if key == "id" then
        return native.id(kind, index)
      elseif key == "unregister" and kind == "procedure" or key == "unsubscribe" and kind == "topic" then
        return give_up
      end
    end,
  })
end

local REGISTER = {
  match = "string",
  invoke = "string",
  disclose_caller = "boolean",
  forward_timeout = "boolean",
  concurrency = "number",
  nkey = "string",
}

function p.register(uri, handler, options)
  expect("register", 1, uri, "string")
  expect("register", 2, handler, "function")
  local o = expect_options("register", options, REGISTER)
  local index = blamed(pcall(native.register, uri, handler, o))
  return handle("procedure", index, uri)
end

local SUBSCRIBE = { match = "string", ordered = "boolean", get_retained = "boolean", nkey = "string" }

function p.subscribe(topic, handler, options)
  expect("subscribe", 1, topic, "string")
  expect("subscribe", 2, handler, "function")
  local o = expect_options("subscribe", options, SUBSCRIBE)
  return handle("topic", blamed(pcall(native.subscribe, topic, handler, o)), topic)
end

function p.unregister(h)
  expect("unregister", 1, h, "table")
  return h:unregister()
end

function p.unsubscribe(h)
  expect("unsubscribe", 1, h, "table")
  return h:unsubscribe()
end

local PUBLISH = with_passthru({
  acknowledge = "boolean",
  exclude_me = "boolean",
  disclose_me = "boolean",
  retain = { "boolean", "clear" },
  rkey = "string",
  exclude = "table",
  exclude_authid = "table",
  exclude_authrole = "table",
  eligible = "table",
  eligible_authid = "table",
  eligible_authrole = "table",
})

function p.publish(topic, args, kwargs, options)
  expect("publish", 1, topic, "string")
  if options == nil then
    return native.publish(topic, args, kwargs)
  end
  return native.publish(topic, args, kwargs, expect_options("publish", options, PUBLISH))
end

local CALL = with_passthru({
  timeout = "number",
  disclose_me = "boolean",
  on_progress = "function",
  chunks = "function",
  rkey = "string",
  runmode = "string",
})

-- Sends what `chunks` returns until it returns nothing, or true as its third value; beside the handler that calls.
local function pump(chunks, failed)
  local function send_next(request)
    local args, kwargs, last = chunks()
    local more = not last and (args ~= nil or kwargs ~= nil)
    return native.send_chunk(request, args, kwargs, more) and more
  end
  return function(request)
    local ok, more
    repeat
      ok, more = pcall(send_next, request)
    until not ok or not more
    if not ok then
      failed(more)
      native.cancel_call(request)
    end
  end
end

local function call_in_chunks(uri, args, kwargs, o)
  local failure
  local function outcome(ok, ...)
    if failure then
      error(failure.value, 0)
    elseif not ok and type((...)) == "string" then
      error(gsub((...), "^perilune:%d+: ", ""), 4)
    elseif not ok then
      error((...), 0)
    end
    return ...
  end
  local function failed(value)
    failure = { value = value }
  end
  local reply = outcome(pcall(native.call, uri, args, kwargs, o, pump(o.chunks, failed)))
  return reply
end

function p.call(uri, args, kwargs, options)
  expect("call", 1, uri, "string")
  if options == nil then
    return native.call(uri, args, kwargs)
  end
  local o = expect_options("call", options, CALL)
  if not o.chunks then
    return native.call(uri, args, kwargs, o)
  end
  local reply = call_in_chunks(uri, args, kwargs, o)
  return reply
end

function p.error(uri, args, kwargs)
  expect("error", 1, uri, "string")
  error(setmetatable({ uri = uri, args = args, kwargs = kwargs }, classes.error), 2)
end

function p.authenticate(method, authenticator)
  expect("authenticate", 1, method, "string")
  expect("authenticate", 2, authenticator, "function")
  return native.authenticate(method, authenticator)
end

function p.authorize(authorizer)
  expect("authorize", 1, authorizer, "function")
  return native.authorize(authorizer)
end

local WHOM = { session = "number", authid = "string", authrole = "string" }

local function recheck(name, again, whom)
  local o = expect_options(name, whom, WHOM)
  blamed(pcall(native.recheck, again, o.session, o.authid, o.authrole))
end

function p.purge(whom)
  recheck("purge", false, whom)
end

function p.reauthorize(whom)
  recheck("reauthorize", true, whom)
end

function p.on(name, handler)
  expect("on", 1, name, "string")
  expect("on", 2, handler, "function")
  return native.on(name, handler)
end

-- With the permissions of any description; "start" is the first moment a script may call anybody.
function p.describe(uri, description)
  expect("describe", 1, uri, "string")
  expect("describe", 2, description, "table")
  blamed(pcall(native.check_description, uri, description))
  native.on("start", function()
    native.call("wamp.reflect.define", { uri, description })
  end)
end

function p.every(seconds, handler)
  expect_seconds("every", seconds, 0.001)
  expect("every", 2, handler, "function")
  return timer(blamed(pcall(native.every, seconds, handler)))
end

function p.after(seconds, handler)
  expect_seconds("after", seconds, 0)
  expect("after", 2, handler, "function")
  return timer(blamed(pcall(native.after, seconds, handler)))
end

function p.cron(schedule, handler)
  expect("cron", 1, schedule, "string")
  expect("cron", 2, handler, "function")
  return timer(blamed(pcall(native.cron, schedule, handler)))
end

function p.spawn(handler)
  expect("spawn", 1, handler, "function")
  return native.spawn(handler)
end

function p.sleep(seconds)
  expect_seconds("sleep", seconds, 0)
  return native.sleep(seconds)
end

return p, classes
