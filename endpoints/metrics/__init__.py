"""What is measured of endpoints and their replicas, from its sources to the charts."""
