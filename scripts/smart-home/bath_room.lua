-- The bath room: a thermometer and a hygrometer, simulated, and somebody who likes to shower.

local p = require "perilune"
local sensors = require "sensors"

local ROOM = "bath room"
local PERIOD = 2 -- seconds between two readings
local SHOWER_EVERY, SHOWER_LASTS = 20, 6 -- readings

-- What all scripts of the realm can see. `fans.lua` keeps in it which fans run.
local fans = p.shared("fans")

-- Where the humidity goes, and how fast.
local function weather(showering, fan)
  if showering then
    return fan and 75 or 95, 0.2
  end
  return fan and 40 or 52, 0.2
end

local function read()
  local air = p.state
  air.reading = (air.reading or 0) + 1
  local showering = air.reading % SHOWER_EVERY < SHOWER_LASTS
  air.temperature = sensors.drift(air.temperature or 23, showering and 26 or 23, 0.1)
  air.humidity = sensors.drift(air.humidity or 56, weather(showering, fans[ROOM]))

  local shower = showering and ", the shower runs" or ""
  p.log.info(("%s: %.1f °C, %.0f %%%s"):format(ROOM, air.temperature, air.humidity, shower))
  sensors.publish(ROOM, "temperature", air.temperature, "°C")
  sensors.publish(ROOM, "humidity", air.humidity, "%")
end

p.on("start", read)
p.every(PERIOD, read)
