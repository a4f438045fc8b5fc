
function events.connect(may_wait, arrival, signal)
  arrival = arrival_of(arrival, signal)
  if arrival.named == '1' and redis.call('ZSCORE', DUE, arrival.ticket .. ' l') then
    deliver(arrival, 'NO_PEER', '', '')
  else
    connect(arrival, may_wait == '1')
  end
  return reply('OK', true)
end
