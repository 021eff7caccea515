-- Health of a ProxyPool. Recycling is a pool's daily life: it stays Healthy meanwhile.

-- Conditions that a person has to do something about, with the answer that says so.
local BAD = {
  {"Stalled", "True"}, {"CredentialsValid", "False"}, {"ProviderReachable", "False"}, {"RunawayBrake", "True"},
  {"QuotaExceeded", "True"}, {"Degraded", "True"},
}

local status = obj.status or {}

local function condition(name)
  for _, found in ipairs(status.conditions or {}) do
    if found.type == name then
      return found
    end
  end
  return {}
end

if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "waiting for the operator"}
end
for _, bad in ipairs(BAD) do
  local found = condition(bad[1])
  if found.status == bad[2] then
    return {status = "Degraded", message = found.message}
  end
end
local ready = condition("Ready")
if obj.spec.paused then
  return {status = "Suspended", message = ready.message}
end
if ready.status == "True" then
  return {status = "Healthy", message = ready.message}
end
return {status = "Progressing", message = ready.message}
