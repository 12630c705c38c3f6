-- Glue of the script host that is better said in Lua than in Rust. Runs once in each new VM, before any script.
-- It captures what it needs: scripts may change their globals as they like.
local WAIT, hosted, native, trusted = ...

local error, pcall, select, setfenv, tonumber, tostring, type =
  error, pcall, select, setfenv, tonumber, tostring, type
local concat, find, sub = table.concat, string.find, string.sub
local create, isyieldable, resume, yield = coroutine.create, coroutine.isyieldable, coroutine.resume, coroutine.yield
local enter, leave = native.enter, native.leave
local floor, min, rawget, rawlen, rawset, unpack = math.floor, math.min, rawget, rawlen, rawset, unpack

-- Whether the function at `level` (1: the caller) is of the module `perilune`, not of the script.
local function in_module(level)
  local _, position = pcall(error, "", level + 2)
  return find(position, "perilune:", 1, true) == 1
end

-- Raises what a native function failed with. Texts get the position of the script's line, as luaL_error does it.
local function raise(e, level)
  if type(e) == "userdata" then
    local placed
    e, placed = native.describe(e)
    if placed then
      level = -1
    elseif in_module(level + 1) then
      level = level + 1
    end
  end
  error(e, level + 1)
end

local function check(ok, ...)
  if ok then return ... end
  raise((...), 2)
end

local function settle(ok, ...)
  if ok then return ... end
  raise((...), 2)
end

local function wait(ok, ticket, ...)
  if not ok then raise(ticket, 2) end
  if ticket == nil then return ... end
  return settle(yield(WAIT, ticket))
end

local M = {}

-- A native function whose failures are plain Lua errors.
function M.lift(f)
  return function(...)
    return check(pcall(f, ...))
  end
end

-- A function that waits: `begin` returns a ticket, or nil and the results at once.
function M.waiting(begin)
  return function(...)
    if not isyieldable() then
      error("cannot wait here (in a comparator, a pattern callback, or while loading)", 2)
    end
    return wait(pcall(begin, ...))
  end
end

-- coroutine.resume/wrap: a wait inside a script's own coroutine passes outward, its outcome back in.
local BUSY = "cannot resume a coroutine that waits for the router"

-- Each coroutine within another takes native stack.
local function left(...)
  leave()
  return ...
end

local function step(co, ...)
  if not enter() then return false, "C stack overflow" end
  return left(resume(co, ...))
end

local function go_on(co, ...)
  hosted[co] = nil
  return step(co, ...)
end

local function forward(co, ok, ...)
  if ok and (...) == WAIT then
    hosted[co] = true
    return forward(co, go_on(co, yield(...)))
  end
  return ok, ...
end

function coroutine.resume(co, ...)
  if hosted[co] then return false, BUSY end
  return forward(co, step(co, ...))
end

local function unwrap(ok, ...)
  if ok then return ... end
  error((...), 0)
end

function coroutine.wrap(f)
  local co = create(f)
  return function(...)
    if hosted[co] then error(BUSY, 2) end
    return unwrap(forward(co, step(co, ...)))
  end
end

-- The original runs its handler where no hook reaches it.
local function failed(_, ...)
  return false, ...
end

local function handled(handler, ok, ...)
  if ok then return true, ... end
  return failed(pcall(handler, ...))
end

function xpcall(f, handler, ...)
  return handled(handler, pcall(f, ...))
end

function print(...)
  local texts = { ... }
  for i = 1, select("#", ...) do
    texts[i] = tostring(texts[i])
  end
  native.print(concat(texts, "\t"))
end

-- C loops that no hook reaches: long lists are joined in pieces and moved in Lua, which the guard can stop.
local LONG = 20000
local insert = table.insert

function table.insert(list, ...)
  local position, value = ...
  if select("#", ...) == 2 and type(list) == "table" then
    position = tonumber(position)
    local last = rawlen(list) + 1
    if position and last - position > LONG then
      for i = last, floor(position) + 1, -1 do
        local below = rawget(list, i - 1)
        if below ~= nil or rawget(list, i) ~= nil then rawset(list, i, below) end
      end
      return rawset(list, floor(position), value) and nil
    end
  end
  return insert(list, ...)
end

-- Sorting is all Lua: the guard can stop it whatever compares, a comparator may wait, and takes no native stack. What is
-- put in order is only ever swapped, so that nothing is lost when it is stopped.
local function quicksort(list, low, high, before)
  while high - low > 12 do
    local middle = floor((low + high) / 2)
    if before(list[middle], list[low]) then list[middle], list[low] = list[low], list[middle] end
    if before(list[high], list[middle]) then
      list[high], list[middle] = list[middle], list[high]
      if before(list[middle], list[low]) then list[middle], list[low] = list[low], list[middle] end
    end
    local pivot, i, j = list[middle], low, high
    while true do
      -- A comparator without an order must not lead out of the list.
      repeat i = i + 1 until i >= high or not before(list[i], pivot)
      repeat j = j - 1 until j <= low or not before(pivot, list[j])
      if i >= j then break end
      list[i], list[j] = list[j], list[i]
    end
    if i == j then i, j = i + 1, j - 1 end
    if j - low < high - i then
      quicksort(list, low, j, before)
      low = i
    else
      quicksort(list, i, high, before)
      high = j
    end
  end
  for last = low + 1, high do
    local at = last
    while at > low and before(list[at], list[at - 1]) do
      list[at], list[at - 1] = list[at - 1], list[at]
      at = at - 1
    end
  end
end

local function less(a, b)
  return a < b
end

-- Whether `less` compares all of them without calling or raising anything.
local function plain(list, last)
  local kind = type(rawget(list, 1))
  for i = 2, last do
    if type(rawget(list, i)) ~= kind then return false end
  end
  return kind == "number" or kind == "string"
end

local sort = table.sort

function table.sort(list, before)
  if type(list) ~= "table" or before ~= nil and type(before) ~= "function" then return sort(list, before) end
  local last = rawlen(list)
  if before == nil and plain(list, last) then
    before = less
  elseif before == nil then
    local _, where = pcall(error, "", 3)
    before = function(a, b)
      local ok, answer = pcall(less, a, b)
      if ok then return answer end
      local _, own = find(tostring(answer), "^perilune:%d+: ")
      error(own and where .. sub(answer, own + 1) or answer, 0)
    end
  end
  quicksort(list, 1, last, before)
end

function table.concat(list, separator, i, j)
  if type(list) == "table" and (i == nil or type(i) == "number") and (j == nil or type(j) == "number") then
    local first, last = i or 1, j or rawlen(list)
    if last - first > LONG then
      local parts = {}
      for from = first, last, LONG do
        parts[#parts + 1] = concat(list, separator, from, min(from + LONG - 1, last))
      end
      return concat(parts, separator)
    end
  end
  return concat(list, separator, i, j)
end

-- Built-ins that would call back from C, once each argument is what they look for.
local format, metatable = string.format, debug.getmetatable

function string.format(...)
  local args, count
  for i = 2, select("#", ...) do
    local value = select(i, ...)
    if type(value) == "table" or type(value) == "userdata" then
      local meta = metatable(value)
      if meta and rawget(meta, "__tostring") ~= nil then
        args, count = args or { ... }, select("#", ...)
        value = tostring(value)
        if type(value) ~= "string" and type(value) ~= "number" then error("'__tostring' must return a string", 2) end
        args[i] = value
      end
    end
  end
  if args then return format(unpack(args, 1, count)) end
  return format(...)
end

local time, date = os.time, os.date

function os.time(...)
  local t = ...
  if type(t) ~= "table" or not metatable(t) then return time(...) end
  return time({
    year = t.year, month = t.month, day = t.day, hour = t.hour, min = t.min, sec = t.sec, isdst = t.isdst,
  })
end

function os.date(form, ...)
  -- strftime is given room and tried again until its answer fits.
  if type(form) == "string" and #form > 1000 then error("bad argument #1 to 'date' (format is too long)", 2) end
  return date(form, ...)
end

for name, long in next, native.long do
  local short = string[name]
  string[name] = function(text, ...)
    if type(text) == "string" and #text > 200000 then return long(text) end
    return short(text, ...)
  end
end

local function compile(name, chunk, chunkname, mode, ...)
  if type(chunk) == "function" then
    local parts = {}
    while true do
      local piece = chunk()
      if piece == nil or piece == "" then break end
      if type(piece) ~= "string" then return nil, "reader function must return a string" end
      parts[#parts + 1] = piece
    end
    chunk, chunkname = concat(parts), chunkname or "=(load)"
  elseif type(chunk) ~= "string" then
    error("bad argument #1 to '" .. name .. "' (string or function expected, got " .. type(chunk) .. ")", 3)
  end
  if mode ~= nil and not find(mode, "t", 1, true) then
    return nil, "attempt to load chunk with wrong mode"
  end
  local f, message = native.compile(chunk, chunkname or chunk)
  if f and select("#", ...) > 0 then setfenv(f, (...)) end
  return f, message
end

if not trusted then
  -- Text only: bytecode can crash the VM.
  function load(chunk, chunkname, mode, ...)
    return compile("load", chunk, chunkname, mode, ...)
  end
  function loadstring(chunk, chunkname)
    return compile("loadstring", chunk, chunkname)
  end
  -- The collector runs by itself, within the script's memory limit; programs may still ask.
  function collectgarbage(what)
    return what == "count" and native.memory() / 1024 or 0
  end
end

-- require: the finding is native, the running is here so that modules may fail (and wait) like any Lua code.
local loaded, loading, stack = {}, {}, {}

local function load_module(name)
  local loader, where = native.find(name)
  loading[name], stack[#stack + 1] = true, name
  local ok, value = pcall(loader, name, where)
  loading[name], stack[#stack] = nil, nil
  if not ok then
    if type(value) == "userdata" then value = native.describe(value) end
    error(value, 0)
  end
  if value == nil then value = loaded[name] end
  if value == nil then value = true end
  loaded[name] = value
  return value
end

package = { loaded = loaded, preload = {}, path = "", cpath = "" }
local preload = package.preload

function require(name)
  if type(name) ~= "string" then
    error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2)
  end
  local value = loaded[name]
  if value ~= nil then return value end
  if loading[name] then
    error("cyclic require: " .. concat(stack, " -> ") .. " -> " .. name, 2)
  end
  if preload[name] then
    value = preload[name](name)
    if value == nil then value = true end
    loaded[name] = value
    return value
  end
  local ok, result = pcall(load_module, name)
  if not ok then raise(result, type(result) == "userdata" and 2 or -1) end
  return result
end

for _, name in ipairs({ "string", "table", "math", "bit", "coroutine" }) do
  loaded[name] = _G[name]
end
if trusted then
  for _, name in ipairs({ "io", "os", "debug", "ffi", "jit" }) do
    loaded[name] = _G[name] or native.libraries[name]
  end
end

return M
