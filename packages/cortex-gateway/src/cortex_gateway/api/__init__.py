"""What clients reach: thin handlers, each dialect's own, and the gateway's word about itself."""
