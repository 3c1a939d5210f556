-- wrk's part of a run: one operation on random ids, and a last line for Python to read.
local requests, turn = {}, 0

function init(args)
  local token, method, path, body, step, count = unpack(args)
  wrk.headers["Authorization"] = "Bearer " .. token
  if body ~= "" then wrk.headers["Content-Type"] = "application/json" else body = nil end
  for n = 1, 1000 do
    local id = string.format("%d", step * math.random(count))
    requests[n] = wrk.format(method, path:gsub("{id}", id), nil, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, _)
  local errors = {}
  for kind, number in pairs(summary.errors) do
    if number > 0 then errors[#errors + 1] = number .. " " .. kind end
  end
  print(string.format(
    '{"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "errors": "%s"}',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, table.concat(errors, ", ")
  ))
end
