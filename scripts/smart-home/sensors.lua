-- What the two rooms have in common: air that drifts as real air does, and how a reading is told.

local p = require "perilune"

local sensors = {}

-- One step from `value` towards `goal`: a share of the way, and a little noise.
function sensors.drift(value, goal, share)
  return value + (goal - value) * share + (math.random() - 0.5) * 0.4
end

-- Publishes one reading, rounded to tenths, for everybody who subscribed to `sensor.events`.
function sensors.publish(room, sensor, value, unit)
  value = math.floor(value * 10 + 0.5) / 10
  p.publish("sensor.events", {}, { room = room, sensor = sensor, value = value, unit = unit })
end

return sensors
