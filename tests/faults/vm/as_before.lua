-- Built-ins of which Perilune has its own: what Lua says of them still holds.
local function refused(part, f, ...)
  local ok, e = pcall(f, ...)
  assert(not ok and tostring(e):find(part, 1, true), e)
end

-- table.insert
local t = { 1, 2, 3 }
table.insert(t, 4)
table.insert(t, 1, 0)
table.insert(t, "6", 5)
assert(table.concat(t, " ") == "0 1 2 3 4 5")
table.insert(t, nil)
assert(#t == 6)
refused("bad argument #1 to 'insert' (table expected, got nil)", function() table.insert(nil, 1) end)
refused("wrong number of arguments to 'insert'", function() table.insert({}) end)
refused("wrong number of arguments to 'insert'", function() table.insert({}, 1, 2, 3) end)
refused("number expected", function() table.insert({}, {}, 2) end)
local long = {}
for i = 1, 50000 do long[i] = i end
table.insert(long, 2, "new")
assert(#long == 50001 and long[1] == 1 and long[2] == "new" and long[3] == 2 and long[50001] == 50000)
local far = {}
table.insert(far, 1e6, "x")
assert(far[1e6] == "x" and next(far, 1e6) == nil)

-- table.sort
local seed = 1
local function random(n)
  seed = (seed * 16807) % 2147483647
  return seed % n + 1
end
for size = 0, 60 do
  for _ = 1, 10 do
    local list, sum = {}, 0
    for i = 1, size do
      list[i] = random(size)
      sum = sum + list[i]
    end
    table.sort(list)
    local back = 0
    for i = 1, size do
      assert(i == 1 or list[i - 1] <= list[i])
      back = back + list[i]
    end
    assert(back == sum and #list == size)
    table.sort(list, function(a, b) return a > b end)
    for i = 2, size do assert(list[i - 1] >= list[i]) end
    -- Without an order, too, nothing is lost.
    table.sort(list, function() return random(2) == 1 end)
    table.sort(list, function() return true end)
    table.sort(list)
    back = 0
    for i = 1, size do back = back + list[i] end
    assert(back == sum and #list == size)
  end
end
local objects = {}
local order = { __lt = function(a, b) return a.n < b.n end }
for i = 1, 30 do objects[i] = setmetatable({ n = random(30) }, order) end
table.sort(objects)
for i = 2, 30 do assert(objects[i - 1].n <= objects[i].n) end
refused("as_before", function() error("as_before") end)
refused("test.lua:", function() table.sort({ 1, "x" }) end)
refused("attempt to compare", function() table.sort({ 1, "x" }) end)
refused("attempt to compare two table values", function() table.sort({ {}, {} }) end)
refused("bad argument #1 to 'sort' (table expected, got nil)", function() table.sort() end)
refused("bad argument #2 to 'sort' (function expected, got number)", function() table.sort({}, 1) end)
refused("mine", function() table.sort({ 2, 1 }, function() error("mine") end) end)
assert(coroutine.wrap(function()
  local list = { 3, 1, 2 }
  table.sort(list, function(a, b) coroutine.yield(true) return a < b end)
end)(), "a comparator may wait")

-- string.format
local named = setmetatable({}, { __tostring = function() return "named" end })
assert(("%s %5s %d %q %%"):format(named, "x", 3, "y") == 'named     x 3 "y" %')
assert(("%s %s"):format(nil, true) == "nil true")
assert(("%s"):format({}):find("^table: 0x"))
assert(("%-10s|"):format(named) == "named     |")
refused("bad argument #2 to 'format' (value expected)", function() string.format("%s") end)
refused("bad argument #2 to 'format' (number expected, got table)", function() string.format("%d", {}) end)
refused("bad argument #1 to 'format' (string expected, got no value)", function() string.format() end)
refused("test.lua:", function() string.format("%d", "x") end)
refused("'__tostring' must return a string", function()
  string.format("%s", setmetatable({}, { __tostring = function() return {} end }))
end)

-- os
local noon = { year = 2026, month = 11, day = 30, hour = 12 }
assert(os.time(noon) == os.time(setmetatable({}, { __index = noon })) and os.time() > 1e9)
assert(os.date("!%Y-%m-%d", 0) == "1970-01-01" and os.date("!*t", 0).year == 1970)
refused("field 'day' missing", function() os.time({ year = 2026 }) end)
refused("too long", os.date, ("x"):rep(1001))

-- upper, lower, reverse
local text = ("aB\0\200"):rep(60000)
assert(text:upper() == ("AB\0\200"):rep(60000) and text:lower() == ("ab\0\200"):rep(60000))
assert(text:reverse() == ("\200\0Ba"):rep(60000) and ("aB"):reverse() == "Ba" and ("aB"):upper() == "AB")
assert(string.upper(12) == "12")
refused("bad argument #1 to 'lower'", function() string.lower({}) end)

-- load
assert(load("#!/usr/bin/lua\nreturn 1")() == 1)
refused("[string \"x +\"]:1:", function() assert(load("x +")) end)
