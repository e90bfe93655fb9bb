"""Topics that are deleted and created again under a running worker."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient

from tests.harness import Client, Site
from tests.path.conftest import PARTITIONS
from tests.path.test_outages import all_completed_once, until
from worker.topic_admin import create_topics


@pytest.mark.parametrize("protocol", ["consumer", "classic"])
def test_a_recreated_topic_is_read_from_its_start(apache_site: Site, protocol: str) -> None:
    client = Client(apache_site)
    with apache_site.worker("one", KAFKA_GROUP_PROTOCOL=protocol) as worker:
        # So many that every partition has got further than its successor will: nobody can tell that from going on.
        first = [client.request("normal").job_id for _ in range(24)]
        all_completed_once(client, first)
        admin = AdminClient({"bootstrap.servers": apache_site.broker.bootstrap_servers})
        for future in admin.delete_topics([apache_site.topics.normal]).values():
            future.result(30)
        until(lambda: apache_site.topics.normal not in admin.list_topics(timeout=10).topics, "the topic stayed")
        create_topics(apache_site.broker.bootstrap_servers, apache_site.topics, PARTITIONS)
        all_completed_once(client, [*first, client.request("normal").job_id])
        assert worker.terminate() == 0
    client.close()
