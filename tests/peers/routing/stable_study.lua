-- Forward a study when it is stable: each ultrasound instance once, and nothing that the node sent.
local ROUTED = '1030' -- a user metadata number: "already forwarded"

function OnStableStudy(study, tags, metadata)
  local fresh = {}
  for _, instance in ipairs(ParseJson(RestApiGet('/studies/' .. study .. '/instances'))) do
    local known = ParseJson(RestApiGet('/instances/' .. instance['ID'] .. '/metadata?expand'))
    local series = ParseJson(RestApiGet('/instances/' .. instance['ID'] .. '/series'))
    if known[ROUTED] == nil and known['RemoteAET'] ~= OWN_AET
        and series['MainDicomTags']['Modality'] == 'US' then
      table.insert(fresh, instance['ID'])
    end
  end
  if #fresh == 0 then
    return
  end
  RestApiPost('/modalities/' .. ROUTE_TO .. '/store',
              DumpJson({ Resources = fresh, Synchronous = false }, true))
  for _, id in ipairs(fresh) do
    RestApiPut('/instances/' .. id .. '/metadata/' .. ROUTED, '1')
  end
end
