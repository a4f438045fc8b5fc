
function events.connect(may_wait, arrival, signal)
  connect(arrival_of(arrival, signal), may_wait == '1')
  return reply('OK', true)
end
