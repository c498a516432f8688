"""The cluster's DNS: names for Services and their endpoints, as pods resolve them.

`records` are all names that there are, made of what the API has; `answer` is pure, from a question and the
records to a reply; `server` is UDP and TCP; `cluster_dns` keeps the records up to date. Nothing is asked
elsewhere: in the demo's world no other names exist. Neighbours: `demo.mirror`, and the structs of
`demo.controllers.objects`. dnspython knows the wire format.
"""
