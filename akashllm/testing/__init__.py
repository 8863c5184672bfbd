"""Testing aids, public: scripted engines, endpoints and markets that speak the published contracts."""
