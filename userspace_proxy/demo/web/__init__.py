"""The demo cluster as a page: what there is, what travels where, and what one may do to it.

Served on the machine's loopback for who has the secret address, and for nobody else. `view`, `traffic`,
`news` and `admission` are pure: from objects of the API and answers of the agents they work out what is
drawn, and who may ask; `live` follows both while somebody looks, and at no other time. The page only draws
what it is sent. Changes go through the API server, as kubectl's would; nothing here writes to nodes or pods
itself. Neighbours: `control_plane`, whose client it uses, and the agents' admin sockets.
"""
