-- Glue of the script host that is better said in Lua than in Rust. Runs once in each new VM, before any script.
-- It captures what it needs: scripts may change their globals as they like.
local WAIT, hosted, native, trusted = ...

local error, pcall, select, setfenv, tostring, type = error, pcall, select, setfenv, tostring, type
local concat, find = table.concat, string.find
local create, isyieldable, resume, yield = coroutine.create, coroutine.isyieldable, coroutine.resume, coroutine.yield

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

local function go_on(co, ...)
  hosted[co] = nil
  return resume(co, ...)
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
  return forward(co, resume(co, ...))
end

local function unwrap(ok, ...)
  if ok then return ... end
  error((...), 0)
end

function coroutine.wrap(f)
  local co = create(f)
  return function(...)
    if hosted[co] then error(BUSY, 2) end
    return unwrap(forward(co, resume(co, ...)))
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

-- Two C loops that no hook reaches take seconds on lists of millions: long lists are sorted through a Lua comparator and
-- joined in pieces, which the guard can stop.
local LONG = 20000
local sort, rawlen, min = table.sort, rawlen, math.min

local function less(a, b)
  return a < b
end

function table.sort(list, comparator)
  if comparator == nil and type(list) == "table" and rawlen(list) > LONG then comparator = less end
  return sort(list, comparator)
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
