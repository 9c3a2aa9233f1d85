-- Forward every ultrasound instance as it arrives, as most scanners and many archives do.
-- ROUTE_TO and OWN_AET are set by a script loaded before this one.
function OnStoredInstance(instance, tags, metadata, origin)
  if origin['RequestOrigin'] == 'Lua' or origin['RemoteAet'] == OWN_AET then
    return -- what the node itself sent stays here
  end
  if tags['Modality'] == 'US' then
    SendToModality(instance, ROUTE_TO)
  end
end
