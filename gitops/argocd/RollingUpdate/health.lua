-- Health of a RollingUpdate, by the conditions that kstatus reads (docs/states.md has them for every state).

-- What Ready says while the update waits for a person.
local WAITS = {
  Paused = true, AwaitingApproval = true, AwaitingRouting = true, AnalysisDeadlineExceeded = true,
  ErrorRateBreached = true, LatencyBreached = true, WorseThanOldErrors = true, WorseThanOldLatency = true, Breached = true,
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

local ready = condition("Ready")
local message = ready.message
if status.routing ~= nil and status.state == "ROUTING" then
  message = status.routing .. ": " .. (message or "")
end

if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "waiting for the operator"}
end
if condition("Reconciling").status == "True" then
  if WAITS[ready.reason] and status.state ~= "ROLLING_BACK" then
    return {status = "Suspended", message = message}
  end
  return {status = "Progressing", message = message}
end
-- It is over. Other conditions that are False tell what the next release needs.
if ready.status ~= "True" then
  return {status = "Degraded", message = message}
end
for _, name in ipairs({"TemplateRolledOut", "AutoscalerFollows"}) do
  if condition(name).status == "False" then
    message = condition(name).message
  end
end
return {status = "Healthy", message = message}
