-- Events from a script and to a script.

local p = require "perilune"

-- [topic, args…]: publishes for the caller, answers with the publication id.
p.register("interop.publish", function(call)
  local topic = table.remove(call.args, 1)
  return p.publish(topic, call.args, call.kwargs, { acknowledge = true })
end)

-- Text that in JSON would stand for octets.
p.register("interop.publish_odd", function(call)
  local odd = "\0no Base64"
  return p.publish(call.args[1], { odd }, { deep = { odd } }, { acknowledge = true })
end)

-- The same as `interop.publish`, retained: for clients that cannot ask for it.
p.register("interop.retain", function(call)
  local topic = table.remove(call.args, 1)
  return p.publish(topic, call.args, call.kwargs, { acknowledge = true, retain = true })
end)

-- Whatever is noted comes back as heard, with what the script was told about it.
p.subscribe("interop.note.", function(event)
  p.publish("interop.heard", event.args, { topic = event.topic, publisher = event.publisher, kwargs = event.kwargs })
end, { match = "prefix" })
