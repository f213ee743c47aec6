"""The real parts that tests run against: servers, the plugin, namespaces, the node lab, recorded nodes."""
