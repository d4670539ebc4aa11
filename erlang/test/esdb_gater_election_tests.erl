-module(esdb_gater_election_tests).

-include_lib("eunit/include/eunit.hrl").

who_is_alone_hosts_test() ->
    ?assertEqual(host, choose('a@h', #{'a@h' => seeking(1)})).

the_eldest_starts_the_first_gateway_test() ->
    Members = #{'a@h' => seeking(2), 'b@h' => seeking(1), 'c@h' => guest(3)},
    ?assertEqual([{await, 'b@h'}, host, {await, 'b@h'}],
                 [choose(Me, Members) || Me <- ['a@h', 'b@h', 'c@h']]).

names_break_ties_test() ->
    Members = #{'a@h' => seeking(1), 'b@h' => seeking(1)},
    ?assertEqual([host, {await, 'a@h'}], [choose(Me, Members) || Me <- ['a@h', 'b@h']]).

one_that_cannot_run_the_program_is_left_out_while_another_can_test() ->
    Members = #{'a@h' => (seeking(1))#{able := false}, 'b@h' => seeking(2)},
    ?assertEqual([{await, 'b@h'}, host], [choose(Me, Members) || Me <- ['a@h', 'b@h']]),
    ?assertEqual(host, choose('a@h', maps:remove('b@h', Members))).

who_hosts_stays_the_host_though_others_are_older_test() ->
    Members = #{'a@h' => seeking(1), 'b@h' => hosting(2, 10, 'g@127.0.0.1')},
    ?assertEqual([{use, 'b@h', 'g@127.0.0.1'}, host],
                 [choose(Me, Members) || Me <- ['a@h', 'b@h']]).

of_two_hosts_the_one_that_began_first_stays_test() ->
    Members = #{'a@h' => hosting(1, 11, 'ga@127.0.0.1'), 'b@h' => hosting(2, 10, 'gb@127.0.0.1'),
                'c@h' => guest(3)},
    ?assertEqual([{use, 'b@h', 'gb@127.0.0.1'}, host, {use, 'b@h', 'gb@127.0.0.1'}],
                 [choose(Me, Members) || Me <- ['a@h', 'b@h', 'c@h']]).

a_gateway_that_cannot_serve_yet_is_waited_for_test() ->
    Members = #{'a@h' => seeking(1), 'b@h' => hosting(2, 10, none)},
    ?assertEqual({await, 'b@h'}, choose('a@h', Members)),
    Younger = Members#{'c@h' => hosting(3, 11, none)},
    ?assertEqual([host, {await, 'b@h'}], [choose(Me, Younger) || Me <- ['b@h', 'c@h']]).

a_younger_one_is_used_until_the_elder_can_serve_test() ->
    Members = #{'a@h' => guest(1), 'b@h' => hosting(2, 10, none),
                'c@h' => hosting(3, 11, 'g@127.0.0.1')},
    ?assertEqual({use, 'c@h', 'g@127.0.0.1'}, choose('a@h', Members)),
    ?assertEqual(host, choose('c@h', Members)),
    ?assertEqual({use, 'b@h', 'b@127.0.0.1'},
                 choose('c@h', Members#{'b@h' := hosting(2, 10, 'b@127.0.0.1')})).

who_was_waited_for_in_vain_is_passed_over_test() ->
    Members = #{'a@h' => seeking(3), 'b@h' => hosting(2, 10, none), 'c@h' => seeking(1)},
    ?assertEqual({await, 'c@h'}, esdb_gater_election:choose('a@h', Members, ['b@h'])),
    ?assertEqual(host, esdb_gater_election:choose('a@h', Members, ['b@h', 'c@h'])),
    %% Nobody passes over itself.
    ?assertEqual(host, esdb_gater_election:choose('a@h', Members, ['a@h', 'b@h', 'c@h'])).

a_gateway_on_loopback_is_waited_for_from_other_hosts_test() ->
    Members = #{'a@h1' => seeking(1), 'b@h2' => hosting(2, 10, 'g@127.0.0.1'), 'c@h2' => guest(3)},
    ?assertEqual({await, 'b@h2'}, choose('a@h1', Members)),
    ?assertEqual({use, 'b@h2', 'g@127.0.0.1'}, choose('c@h2', Members)),
    Open = Members#{'b@h2' := hosting(2, 10, 'g@h2')},
    ?assertEqual({use, 'b@h2', 'g@h2'}, choose('a@h1', Open)).

a_gateway_listens_on_loopback_while_all_are_on_one_host_test() ->
    ?assertEqual(loopback, scope('a@h', ['a@h', 'b@h', 'c@127.0.0.1'])),
    ?assertEqual(loopback, scope('a@127.0.0.1', ['a@127.0.0.1', 'b@h'])),
    ?assertEqual(open, scope('a@h', ['a@h', 'b@other'])).

what_is_no_status_is_known_test() ->
    [?assert(esdb_gater_election:is_status(S)) || S <- [seeking(1), guest(1), hosting(1, 2, none)]],
    [?assertNot(esdb_gater_election:is_status(S))
     || S <- [none, #{}, (seeking(1))#{role := king}, (seeking(1))#{born := now},
              (seeking(1))#{role := {hosting, 1, "g@h"}}]].

%% Whatever they have told each other, all that see the same name the same host.
all_agree_test() ->
    Names = ['a@h', 'b@h', 'c@h', 'd@h'],
    [begin
         Members = maps:from_list([{Name, any(Name)} || Name <- Names]),
         Chosen = lists:usort([case choose(Me, Members) of
                                   host -> Me;
                                   {use, Host, _} -> Host;
                                   {await, Host} -> Host
                               end || Me <- Names]),
         ?assertMatch([_], Chosen)
     end || _ <- lists:seq(1, 2000)].

any(Name) ->
    Born = rand:uniform(3),
    Status = case rand:uniform(4) of
                 1 -> hosting(Born, rand:uniform(3), list_to_atom("g" ++ atom_to_list(Name)));
                 2 -> seeking(Born);
                 3 -> guest(Born);
                 4 -> seeking(Born)
             end,
    Status#{able := rand:uniform(2) =:= 1}.

choose(Me, Members) -> esdb_gater_election:choose(Me, Members, []).

scope(Me, Names) -> esdb_gater_election:scope(Me, maps:from_list([{N, seeking(1)} || N <- Names])).

seeking(Born) -> #{born => Born, able => true, role => seeking}.

guest(Born) -> #{born => Born, able => true, role => guest}.

hosting(Born, Since, Gateway) -> #{born => Born, able => true, role => {hosting, Since, Gateway}}.
