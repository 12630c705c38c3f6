-- The rule of the house: damp air starts a room's fan, dry air stops it.

local p = require "perilune"

local LIMIT = 65 -- % of humidity that starts a fan
local DRY = LIMIT - 8 -- and that stops it

local fans = p.shared("fans") -- room -> whether its fan runs; `fans.lua` keeps it
local without = {} -- rooms that turned out to have none

-- p.call waits for the answer; the router and the other handlers of this script go on meanwhile.
local function fan(room, on)
  if without[room] or (fans[room] or false) == on then
    return
  end
  local ok, err = pcall(p.call, "dcs.fan.control", { room, on })
  if not ok then -- a WAMP error is a table with uri, args and kwargs
    without[room] = err.uri == "homeapp.error.hardware_not_found"
    p.log.warn(("%s: no fresh air (%s)"):format(room, tostring(err)))
  end
end

p.subscribe("sensor.events", function(event)
  local reading = event.kwargs
  if reading.sensor ~= "humidity" then
    return
  end
  if reading.value > LIMIT then
    fan(reading.room, true)
  elseif reading.value < DRY then
    fan(reading.room, false)
  end
end)

p.on("start", function()
  p.log.info(("fans start above %d %% of humidity and stop below %d %%"):format(LIMIT, DRY))
end)
