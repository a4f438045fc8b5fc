
function views.statistics()
  local offers, waiting = redis.call('ZLEXCOUNT', INDEX, '[o ', '(o!'), redis.call('ZLEXCOUNT', INDEX, '[p ', '(p!')
  return { waiting, offers - waiting, redis.call('HLEN', HANDOVERS), redis.call('ZCARD', PAIRS) }
end
