"""Tests of the demo cluster's page: what it is sent, and who may ask."""
