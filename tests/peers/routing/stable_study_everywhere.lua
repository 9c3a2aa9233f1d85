-- Forward the whole study to every modality of ROUTE_TO (names between commas) each time it becomes stable:
-- what the archive stored from one node goes to the other, and back to the one that made it.
function OnStableStudy(study, tags, metadata)
  for name in string.gmatch(ROUTE_TO, '[^,]+') do
    RestApiPost('/modalities/' .. name .. '/store',
                DumpJson({ Resources = { study }, Synchronous = false }, true))
  end
end
