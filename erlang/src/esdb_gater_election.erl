%%% @private
%%% @doc Which of several connected nodes runs the embedded gateway that all of them use.
%%%
%%% Every member tells the others how it is (`status()'). From the same statuses every node
%%% concludes the same:
%%% <ul>
%%% <li>of those that host a gateway which can be used, the one that began first;</li>
%%% <li>if nobody hosts one, the member that has been there longest is to start it; one whose
%%%     program does not run comes after those of which nothing is known.</li>
%%% </ul>
%%% Clocks that differ decide who is the eldest and nothing else: what counts is what each has
%%% told, and names break ties. So after a netsplit, too, the two sides agree.
%%% @end
-module(esdb_gater_election).

-export([choose/3, scope/2, is_status/1]).

-export_type([status/0, members/0, decision/0, scope/0]).

-type status() :: #{
    born := integer(),                      % system time, µs, when it became a member
    able := boolean(),                      % false: its program has failed to run
    role := seeking | guest | {hosting, Since :: integer(), Gateway :: node() | none}
}.
-type members() :: #{node() => status()}.
-type decision() :: host | {use, Host :: node(), Gateway :: node()} | {await, Host :: node()}.
-type scope() :: loopback | open.
%% Where a gateway is to listen.

%% @doc What the node `Me', itself among the members, has to do. `Passed' are members that were
%% waited for in vain.
-spec choose(Me :: node(), members(), Passed :: [node()]) -> decision().
choose(Me, Members, Passed) ->
    Counted = maps:without(Passed -- [Me], Members),
    Hosts = [{Since, Node, Gateway}
             || {Node, #{role := {hosting, Since, Gateway}}} <- maps:to_list(Counted)],
    Usable = [Host || {_, Node, Gateway} = Host <- Hosts, is_usable(Gateway, Node, Me)],
    case {lists:sort(Usable), lists:sort(Hosts)} of
        {[{_, Me, _} | _], _} -> host;
        {[{_, Node, Gateway} | _], _} -> {use, Node, Gateway};
        {[], [{_, Me, _} | _]} -> host;
        {[], [{_, Node, _} | _]} -> {await, Node};
        {[], []} ->
            case lists:min([{not Able, Born, Node}
                            || {Node, #{able := Able, born := Born}} <- maps:to_list(Counted)]) of
                {_, _, Me} -> host;
                {_, _, Node} -> {await, Node}
            end
    end.

%% @doc Where the gateway of the node `Me' has to listen: on a loopback address as long as all members are
%% on this machine, by the host parts of their names.
-spec scope(Me :: node(), members()) -> scope().
scope(Me, Members) ->
    case lists:all(fun(Node) -> is_near(Node, Me) end, maps:keys(Members)) of
        true -> loopback;
        false -> open
    end.

%% @doc Whether this is a status; it comes from another node.
-spec is_status(term()) -> boolean().
is_status(#{born := Born, able := Able, role := Role}) ->
    is_integer(Born) andalso is_boolean(Able) andalso is_role(Role);
is_status(_) ->
    false.

is_role({hosting, Since, Gateway}) -> is_integer(Since) andalso is_atom(Gateway);
is_role(Role) -> Role =:= seeking orelse Role =:= guest.

%% A gateway on a loopback address is of no use to other machines.
is_usable(none, _Host, _Me) ->
    false;
is_usable(Gateway, Host, Me) ->
    not is_loopback(host(Gateway)) orelse is_near(Host, Me).

%% A node that is called by a loopback address can be connected on its machine only.
is_near(Node, Me) ->
    Host = host(Node),
    Mine = host(Me),
    Host =:= Mine orelse is_loopback(Host) orelse is_loopback(Mine).

is_loopback(Host) ->
    esdb_gater_distribution:is_loopback(Host).

host(Node) ->
    lists:last(string:split(atom_to_list(Node), "@")).
