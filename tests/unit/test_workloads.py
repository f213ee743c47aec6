"""Which workload a pod's name tells of."""

import pytest

from cni.workloads import workload_of


@pytest.mark.parametrize(
    ("pod", "workload"),
    [
        pytest.param("shop/web-58649f5cc6-pgg6p", "shop/web", id="Deployment"),
        pytest.param("kube-system/kube-proxy-7xkzq", "kube-system/kube-proxy", id="DaemonSet"),
        pytest.param("shop/nightly-29380080-hz8lb", "shop/nightly", id="CronJob"),
        pytest.param("shop/db-0", "shop/db", id="StatefulSet"),
        pytest.param("shop/db-12", "shop/db", id="StatefulSet of many"),
        pytest.param("shop/web", "shop/web", id="a name that somebody chose"),
        pytest.param("shop/web-frontend", "shop/web-frontend", id="letters that are never drawn"),
        pytest.param("default/a-b-58649f5cc6-pgg6p", "default/a-b", id="a dash in the name"),
    ],
)
def test_the_drawn_or_counted_end_of_a_name_is_left_out(pod: str, workload: str):
    assert workload_of(pod) == workload
