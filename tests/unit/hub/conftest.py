from tests.unit.hub import hub_fixtures

hub, model_files = hub_fixtures.hub, hub_fixtures.model_files
