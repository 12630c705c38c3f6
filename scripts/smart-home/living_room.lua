-- The living room: a thermometer and a hygrometer, simulated.

local p = require "perilune"
local sensors = require "sensors"

local ROOM = "living room"
local PERIOD = 4 -- seconds between two readings

local function read()
  -- p.state goes from the old version of a script to the new one: saving this file does not change the weather.
  local air = p.state
  air.temperature = sensors.drift(air.temperature or 21, 22, 0.1)
  air.humidity = sensors.drift(air.humidity or 46, 45, 0.1)

  p.log.info(("%s: %.1f °C, %.0f %%"):format(ROOM, air.temperature, air.humidity))
  sensors.publish(ROOM, "temperature", air.temperature, "°C")
  sensors.publish(ROOM, "humidity", air.humidity, "%")
end

p.on("start", read)
p.every(PERIOD, read)
