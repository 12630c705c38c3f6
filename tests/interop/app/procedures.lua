-- Procedures for the clients to call. What a client sends comes back either as it is (`echo`) or as text
-- (`as_json`, `size`): the one shows what the wire carries, the other what the script saw.

local p = require "perilune"

p.register("interop.add", function(call)
  return call.args[1] + call.args[2]
end)

p.register("interop.nothing", function() end)

p.register("interop.many", function()
  return p.result({ 1, "two", true }, { three = 3 })
end)

p.register("interop.echo", function(call)
  return p.result(call.args, call.kwargs)
end)

p.register("interop.as_json", function(call)
  return p.json.encode(call.args[1])
end)

p.register("interop.size", function(call)
  return #call.args[1]
end)

p.register("interop.kinds", function()
  return "Mondnähe ☾ 🌒", p.null, p.array {}, p.map {}, { p.array {}, p.map {} }, 2 ^ 53, 0.5
end)

p.register("interop.big", function()
  return 9007199254740993LL, -9223372036854775807LL, 18446744073709551615ULL
end)

p.register("interop.binary", function()
  return p.bytes("\0\1\254\255")
end)

p.register("interop.fail", function(call)
  p.error("interop.error.refused", { "no", call.args[1] }, { why = "asked to" })
end)

p.register("interop.crash", function()
  local nothing = nil
  return nothing.field
end)

p.register("interop.count", function(call)
  for i = 1, call.args[1] do
    call:progress({ i }, { left = call.args[1] - i })
  end
  return "done"
end)

p.register("interop.whoami", function(call)
  local details = call.details
  return p.result({}, { session = details.caller, authid = details.caller_authid, authrole = details.caller_authrole })
end)

-- The same where the caller is named only if it asks.
p.register("interop.quiet.whoami", function(call)
  return call.details.caller or p.null
end)

-- Says that it has begun, waits to be cancelled, and says so to everybody.
p.register("interop.wait", function(call)
  call:progress({ "waiting" })
  while not call.cancelled do
    p.sleep(0.01)
  end
  p.publish("interop.topic.cancelled", { call.args[1] })
  p.error("wamp.error.canceled")
end)

-- Calls what the client registered: [procedure, args…], answers with what came back; its error passes through.
p.register("interop.relay", function(call)
  local procedure = table.remove(call.args, 1)
  local result = p.call(procedure, call.args, call.kwargs)
  return p.result(result.args, result.kwargs)
end)

-- The same, and tells what the script sees of an error it catches.
p.register("interop.relay_caught", function(call)
  local ok, err = pcall(p.call, call.args[1])
  return p.result({ ok }, { uri = err.uri, args = err.args, kwargs = err.kwargs })
end)
