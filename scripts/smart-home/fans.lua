-- The fans, and the procedure that switches them: dcs.fan.control(room, on) -> on.

local p = require "perilune"

-- Rooms that have one.
local FANS = { ["bath room"] = true }

-- Room -> whether its fan runs. Shared by all scripts of the realm, and it survives reloads.
local fans = p.shared("fans")

p.register("dcs.fan.control", function(call)
  local room, on = call.args[1], call.args[2]
  if type(room) ~= "string" or type(on) ~= "boolean" then
    p.error("wamp.error.invalid_argument", { "wanted: the name of a room, and true or false" })
  end
  if not FANS[room] then
    p.error("homeapp.error.hardware_not_found", { "there is no fan in the " .. room }, { room = room })
  end

  if fans[room] ~= on then
    fans[room] = on
    local who = call.details.caller_authid or "the rule"
    p.log.info(("%s: the fan is %s, says %s"):format(room, on and "ON" or "off", who))
  end
  return on
end)
