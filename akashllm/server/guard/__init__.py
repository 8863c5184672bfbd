"""What stands between the network and the routes: keys, hosts, sizes, shapes."""
