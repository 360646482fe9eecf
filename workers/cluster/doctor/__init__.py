"""`resnetd-server doctor`: what machines of a cluster need, checked on each of them."""
