-- Orders for a RollingUpdate: each writes what the CLI and the REST API write, and is refused where they refuse it.

local OVER = {COMPLETED = true, ROLLED_BACK = true, FAILED = true}
local spec, status = obj.spec, obj.status or {}
local state, version, routing, decision = status.state or "PENDING", status.newVersion or spec.version, status.routing, status.decision
local is_of_spec = status.newVersion == spec.version and (status.attempt or 1) == (spec.attempt or 1)
if OVER[state] and not is_of_spec then
  -- The status still speaks of the release before.
  state, version, routing, decision = "PENDING", spec.version, nil, nil
end
-- Orders for another version are none.
local control = spec.control
if control == nil or control.version ~= spec.version then
  control = {}
end

-- Argo CD opens no library for texts, so they are read by comparing: the next character is the last one that, put behind
-- what was read, is not above the text.
local CHARACTERS = {" ", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", ":"}

-- The numbers of "new:old".
local function ratio(text)
  local read, parts, part = "", {"", ""}, 1
  for _ = 1, #text do
    local next
    for _, character in ipairs(CHARACTERS) do
      if read .. character <= text then
        next = character
      end
    end
    read = read .. next
    if next == ":" then
      part = 2
    elseif next ~= " " then
      parts[part] = parts[part] .. next
    end
  end
  return {new = tonumber(parts[1]), old = tonumber(parts[2])}
end

-- The new version's share is larger in a than in b.
local function exceeds(a, b)
  return a.new * (b.new + b.old) > b.new * (a.new + a.old)
end

local function no(why)
  return nil, nil, why
end

-- The next step, where it waits for an approval.
local function approve()
  local before = (decision or {}).approvedBefore
  if not spec.requireManualApproval and before == nil then
    return no("there is nothing to approve; it goes on by itself (requireManualApproval is false, and no limit is breached)")
  end
  local wanted
  for _, step in ipairs((spec.progression or {}).steps or {"1:9", "1:3", "1:1", "3:1", "1:0"}) do
    if wanted == nil and exceeds(ratio(step), ratio(routing or "0:1")) then
      wanted = step
    end
  end
  if wanted == nil then
    return no("there is nothing to approve; all traffic is on the new version; complete it")
  end
  if before == wanted then
    return no("there is nothing to approve; that ratio was approved before the limit was breached; set the routing instead")
  end
  if before == nil and control.approved ~= nil and not exceeds(ratio(wanted), ratio(control.approved)) then
    return no("there is nothing to approve; that step is approved already")
  end
  return "approved", wanted
end

-- All traffic must be on the new version, and the gateways must have said so.
local function complete()
  local shifted = false
  for _, condition in ipairs(status.conditions or {}) do
    shifted = shifted or (condition.type == "TrafficShifted" and condition.status == "True")
  end
  if state ~= "COMPLETING" and not (shifted and ratio(routing or "0:1").old == 0) then
    return no("completing needs all traffic on the new version; set routing 1:0 first")
  end
  return "outcome", "Complete"
end

local ORDERS = {
  approve = {title = "Approve the next step", order = approve},
  pause = {title = "Pause", order = function() return "paused", true end},
  resume = {title = "Resume", order = function() return "paused", nil end},
  complete = {title = "Complete: retire the old version", order = complete},
  rollback = {title = "Roll back: all traffic to the old version", order = function() return "outcome", "Rollback" end},
}

-- The field of spec.control that an order writes and its value; or, third, why it cannot be given now.
local function wanted(name)
  if OVER[state] then
    return no("it is " .. state .. " and takes no orders; start the next version, or the same one again")
  end
  if name ~= "rollback" then
    if version ~= spec.version then
      return no("it is being superseded by version " .. spec.version .. "; wait until that has begun")
    end
    if state == "ROLLING_BACK" or control.outcome == "Rollback" then
      return no("it is being rolled back")
    end
  end
  if name == "approve" and state == "COMPLETING" then
    return no("it is being completed; all traffic is on the new version")
  end
  return ORDERS[name].order()
end

-- For the menu: an order is offered where it can be given and would change something.
local function offered()
  local actions = {}
  for name, what in pairs(ORDERS) do
    local field, value = wanted(name)
    actions[name] = {disabled = field == nil or control[field] == value, displayName = what.title}
  end
  return actions
end

local function give(name)
  local field, value, why = wanted(name)
  if field == nil then
    error("update " .. obj.metadata.name .. ": " .. why, 0)
  end
  if control[field] ~= value then
    control[field], control.version = value, spec.version
    spec.control = control
  end
  return obj
end
