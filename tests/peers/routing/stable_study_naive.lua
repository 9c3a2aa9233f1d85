-- Forward the whole study every time it becomes stable: duplicates, and the node's own results, too.
-- Rules like this exist in hospitals; the node has to bear them.
function OnStableStudy(study, tags, metadata)
  RestApiPost('/modalities/' .. ROUTE_TO .. '/store',
              DumpJson({ Resources = { study }, Synchronous = false }, true))
end
