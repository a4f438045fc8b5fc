
function views.statistics()
  local offers, waiting = redis.call('HLEN', OFFERS) / 2, redis.call('ZLEXCOUNT', INDEX, '[p ', '(p!')
  return { waiting, offers - waiting, redis.call('HLEN', HANDOVERS), redis.call('ZCARD', PAIRS) }
end
