-- A program made of octets: it calls whatever can be reached, with whatever can be made, from wherever code can run.
local octets, at, mixed = OCTETS, 0, 0

local function byte()
  at = at % #octets + 1
  mixed = (mixed * 31 + octets:byte(at) + 7) % 65536
  return (mixed + octets:byte(at)) % 256
end

local p = require "perilune"
local yes, kind, each, protected = true, type, next, pcall

-- Every function there is, and the tables they are in.
local functions, seen = {}, {}
local function collect(table)
  if seen[table] then return end
  seen[table] = true
  for _, value in each, table do
    if kind(value) == "function" then
      functions[#functions + 1] = value
    elseif kind(value) == "table" then
      collect(value)
    end
  end
end
collect(_G)
collect(p)
collect(p.shared("fuzz"))
-- The order of a table's keys is nobody's promise, but the same in every run of one build: good enough to replay.

local pool, step = {}, nil

local makers = {
  function() return byte() end,
  function() return -byte() / 3 end,
  function() return 2 ^ (byte() % 70) end,
  function() return 0 / 0 end,
  function() return nil end,
  function() return yes end,
  function() return "" end,
  function() return ("x"):rep(byte() * byte()) end,
  function() return ("%d(.-)*$[^]{}\0\255"):sub(1 + byte() % 12) end,
  function() return octets end,
  function() return "a." .. byte() % 4 end,
  function() return "wamp.session.list" end,
  function() return {} end,
  function() return { byte(), "a", { b = byte() } } end,
  function() local t = {} t[1] = t return t end,
  function() return setmetatable({}, { __index = step, __tostring = step, __call = step, __len = step, __gc = step }) end,
  function() return step end,
  function() return functions[1 + byte() * 7 % #functions] end,
  function() return coroutine.create(step) end,
  function() return coroutine.wrap(step) end,
  function() return pool[1 + byte() % 16] end,
  function() return pool[1 + byte() % 16] end,
  function() return p.null end,
  function() return p.bytes("\0\1\2") end,
  function() return { match = "prefix", acknowledge = true, retain = true, ttl = byte() } end,
}

local function value()
  return makers[1 + byte() % #makers]()
end

local depth = 0
function step()
  if depth > 40 then return nil end
  depth = depth + 1
  local f, count = functions[1 + (byte() * 256 + byte()) % #functions], byte() % 5
  local a, b, c, d = value(), value(), value(), value()
  local ok, result
  if count == 0 then ok, result = protected(f)
  elseif count == 1 then ok, result = protected(f, a)
  elseif count == 2 then ok, result = protected(f, a, b)
  elseif count == 3 then ok, result = protected(f, a, b, c)
  else ok, result = protected(f, a, b, c, d) end
  depth = depth - 1
  if ok then pool[1 + byte() % 16] = result end
  return result
end

local function steps(count)
  depth = 0 -- Whoever was stopped in the middle has left it where it was.
  for _ = 1, count do step() end
end

protected(steps, octets:byte(1) % 32)
for name, declare in each, {
  go = function() p.register("s.go", function() steps(60) return byte() end) end,
  again = function() p.register("s.again", function(call) steps(20) return call.args end) end,
  topic = function() p.subscribe("a.", function() steps(10) end, { match = "prefix" }) end,
  timer = function() p.every(0.01, function() steps(10) end) end,
  after = function() p.after(0, function() steps(10) end) end,
  spawned = function() p.on("start", function() steps(20) p.spawn(function() steps(20) end) end) end,
  joined = function() p.on("join", function() steps(10) end) end,
  login = function() p.authenticate("ticket", function() steps(10) return { role = "guest" } end) end,
  asked = function() p.authorize(function() steps(10) return yes end) end,
} do
  protected(declare, name)
end
