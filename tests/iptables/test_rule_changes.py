"""From any installed rules to any wanted ones: as few edits as that takes, and nobody else's rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.iptables.fake_tables import FakeTables
from userspace_proxy.core.port_claims import PortRange
from userspace_proxy.core.service_port import Protocol
from userspace_proxy.iptables.chains import PORTALS_CONTAINER, PORTALS_GUARD, PORTALS_HOST, Chain, Table
from userspace_proxy.iptables.rule_changes import (
    AddHook,
    DeleteHook,
    DeleteRule,
    InsertRule,
    TableChange,
    WriteChain,
    plan_changes,
    plan_removal,
)
from userspace_proxy.iptables.rules import (
    Hook,
    InstalledRules,
    Jump,
    Place,
    Redirect,
    Rule,
    RuleSet,
    Verdict,
    as_installed,
)

OURS = (PORTALS_GUARD, PORTALS_CONTAINER, PORTALS_HOST)
PREROUTING, OUTPUT, INPUT = (
    Chain(Table.NAT, "PREROUTING"),
    Chain(Table.NAT, "OUTPUT"),
    Chain(Table.FILTER, "INPUT"),
)


def rule(number: int) -> Rule:
    return Rule(
        target=Redirect(20000 + number), protocol=Protocol.TCP, destination_ports=PortRange(number, number)
    )


def hook(builtin: Chain, chain: Chain, place: Place = Place.FIRST) -> Hook:
    return Hook(builtin, chain, Rule(target=Jump(chain.name)), place)


def wanted(*numbers: int) -> RuleSet:
    return RuleSet({PORTALS_CONTAINER: tuple(map(rule, numbers))}, (hook(PREROUTING, PORTALS_CONTAINER),))


def steps(installed: InstalledRules, target: RuleSet) -> list[object]:
    return [step for change in plan_changes(installed, target) for step in change.steps]


def test_nothing_differs() -> None:
    assert plan_changes(as_installed(wanted(1, 2)), wanted(1, 2)) == ()


def test_from_nothing() -> None:
    assert steps(InstalledRules(), wanted(1, 2)) == [
        WriteChain(PORTALS_CONTAINER, (rule(1), rule(2))),
        AddHook(hook(PREROUTING, PORTALS_CONTAINER)),
    ]


def test_one_rule_more() -> None:
    assert steps(as_installed(wanted(1, 3)), wanted(1, 2, 3)) == [InsertRule(PORTALS_CONTAINER, 2, rule(2))]


def test_one_rule_less() -> None:
    assert steps(as_installed(wanted(1, 2, 3)), wanted(1, 3)) == [DeleteRule(PORTALS_CONTAINER, 2)]


def test_few_edits_here_and_there() -> None:
    assert steps(as_installed(wanted(1, 2, 3, 4, 6, 7, 8)), wanted(2, 3, 5, 6, 8, 9)) == [
        DeleteRule(PORTALS_CONTAINER, 6),
        DeleteRule(PORTALS_CONTAINER, 4),
        DeleteRule(PORTALS_CONTAINER, 1),
        InsertRule(PORTALS_CONTAINER, 3, rule(5)),
        InsertRule(PORTALS_CONTAINER, 6, rule(9)),
    ]


def test_many_edits_rewrite_the_chain_and_no_other() -> None:
    host = {PORTALS_HOST: (rule(1),)}
    installed = as_installed(RuleSet({**wanted(1, 2, 3).chains, **host}))
    assert steps(installed, RuleSet({**wanted(4, 5, 6).chains, **host})) == [
        WriteChain(PORTALS_CONTAINER, (rule(4), rule(5), rule(6)))
    ]


def test_another_order_rewrites_the_chain() -> None:
    installed = as_installed(wanted(*range(1, 10)))
    reordered = wanted(2, 1, *range(3, 10))
    assert steps(installed, reordered) == [WriteChain(PORTALS_CONTAINER, reordered.chains[PORTALS_CONTAINER])]


def test_a_rule_doubled_rewrites_the_chain() -> None:
    assert steps(as_installed(wanted(1, 1, 2, 3, 4)), wanted(1, 2, 3, 4)) != []
    assert steps(as_installed(wanted(1, 1, 2)), wanted(1, 2))[0] in (
        WriteChain(PORTALS_CONTAINER, (rule(1), rule(2))),
        DeleteRule(PORTALS_CONTAINER, 2),
    )


def test_a_hook_pushed_from_its_place_is_put_back() -> None:
    tables = FakeTables()
    for change in plan_changes(tables.read(), wanted(1)):
        tables.commit(change)
    tables.chains[PREROUTING].insert(0, "-j ACCEPT")
    pushed = tables.read()
    assert steps(pushed, wanted(1)) == [
        DeleteHook(pushed.hooks[0]),
        AddHook(hook(PREROUTING, PORTALS_CONTAINER)),
    ]


def test_a_last_hook_is_put_back_when_something_follows_it() -> None:
    target = RuleSet({PORTALS_HOST: ()}, (hook(OUTPUT, PORTALS_HOST, Place.LAST),))
    tables = FakeTables({PORTALS_HOST: [], OUTPUT: ["-j KUBE-PORTALS-HOST", "-j ACCEPT"]})
    for change in plan_changes(tables.read(), target):
        tables.commit(change)
    assert tables.chains[OUTPUT] == ["-j ACCEPT", "-j KUBE-PORTALS-HOST"]
    assert plan_changes(tables.read(), target) == ()


def test_filter_comes_before_nat_and_after_it_in_removal() -> None:
    both = RuleSet({PORTALS_CONTAINER: (), PORTALS_GUARD: ()})
    assert [change.table for change in plan_changes(InstalledRules(), both)] == [Table.FILTER, Table.NAT]
    assert [change.table for change in plan_removal(as_installed(both))] == [Table.NAT, Table.FILTER]


def test_the_cost_of_a_change_is_its_rules() -> None:
    (change,) = plan_changes(InstalledRules(), wanted(1, 2, 3))
    assert change.rule_count == 4
    assert TableChange(Table.NAT, ()).rule_count == 0


numbers = st.lists(st.integers(1, 8), max_size=8)
foreign_lines = st.lists(
    st.sampled_from(["-j ACCEPT", "-p icmp -j DROP", "-m mark --mark 0x1 -j RETURN"]), max_size=3
)
jumps = st.sampled_from([f"-j {chain.name}" for chain in (PORTALS_CONTAINER, PORTALS_HOST)])


@st.composite
def wanted_sets(draw: st.DrawFn) -> RuleSet:
    unique = st.lists(st.integers(1, 8), max_size=8, unique=True)
    chains = {
        chain: tuple(map(rule, draw(unique))) for chain in draw(st.lists(st.sampled_from(OURS), unique=True))
    }
    hooks = [
        hook(builtin, chain, draw(st.sampled_from(Place)))
        for builtin, chain in (
            (INPUT, PORTALS_GUARD),
            (PREROUTING, PORTALS_CONTAINER),
            (PREROUTING, PORTALS_HOST),
            (OUTPUT, PORTALS_HOST),
        )
        if chain in chains and draw(st.booleans())
    ]
    return RuleSet(chains, tuple(hooks))


@st.composite
def tables_of_some_sort(draw: st.DrawFn) -> FakeTables:
    """Chains of ours in any state, and rules of others and jumps of ours mixed in the built-in ones."""
    lines: dict[Chain, list[str]] = {Chain(Table.NAT, "DOCKER"): draw(foreign_lines)}
    for chain in OURS:
        if draw(st.booleans()):
            lines[chain] = [str(rule(number)) for number in draw(numbers)] + draw(foreign_lines)
    for builtin in (PREROUTING, OUTPUT, INPUT):
        known = {f"-j {chain.name}" for chain in lines if chain.table is builtin.table}
        mixed = draw(st.permutations(draw(foreign_lines) + draw(st.lists(jumps, max_size=3))))
        lines[builtin] = [line for line in mixed if "KUBE" not in line or line in known]
    return FakeTables(lines)


@given(tables_of_some_sort(), wanted_sets())
def test_every_change_ends_in_what_was_wanted_and_harms_nobody(tables: FakeTables, target: RuleSet) -> None:
    others = tables.others()
    for change in plan_changes(tables.read(), target):
        tables.commit(change)
    installed = tables.read()
    assert dict(installed.chains) == dict(target.chains)
    assert plan_changes(installed, target) == ()
    assert [(found.chain, found.rule) for found in installed.hooks] == in_chain_order(target, installed)
    assert tables.others() == others


def in_chain_order(target: RuleSet, installed: InstalledRules) -> list[tuple[Chain, Rule]]:
    """The wanted hooks, those that come first before those that come last, chain by chain as found."""
    found_order = list(dict.fromkeys(found.chain for found in installed.hooks))
    ordered = sorted(target.hooks, key=lambda wanted_hook: wanted_hook.place is Place.LAST)
    ordered.sort(key=lambda wanted_hook: found_order.index(wanted_hook.chain))
    return [(wanted_hook.chain, wanted_hook.rule) for wanted_hook in ordered]


@given(tables_of_some_sort())
def test_removal_leaves_what_others_had(tables: FakeTables) -> None:
    others = tables.others()
    for change in plan_removal(tables.read()):
        tables.commit(change)
    assert tables.chains == others
    assert plan_removal(tables.read()) == ()


def test_a_foreign_rule_in_a_chain_of_ours_goes() -> None:
    tables = FakeTables({PORTALS_CONTAINER: [str(rule(1)), "-p icmp -j ACCEPT", str(rule(2)), str(rule(3))]})
    target = RuleSet(wanted(1, 2, 3).chains)
    assert steps(tables.read(), target) == [DeleteRule(PORTALS_CONTAINER, 2)]


def test_verdicts_are_rules_like_any_other() -> None:
    drop, accept = Rule(target=Verdict.DROP), Rule(target=Verdict.ACCEPT)
    installed = as_installed(RuleSet({PORTALS_GUARD: (drop, accept)}))
    swapped = RuleSet({PORTALS_GUARD: (accept, drop)})
    assert steps(installed, swapped) == [WriteChain(PORTALS_GUARD, (accept, drop))]
