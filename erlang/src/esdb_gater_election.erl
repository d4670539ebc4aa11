%%% @private
%%% @doc The election of the node that runs the embedded gateway which several connected nodes use.
%%%
%%% Every member announces its status (`status()') to the others. From the same statuses every node
%%% derives the same result:
%%% <ul>
%%% <li>Of the members that host a usable gateway, the one that began first is used.</li>
%%% <li>If no member hosts a gateway, the member with the longest membership is to start one; a
%%%     member whose program does not run comes after those whose status is unknown.</li>
%%% </ul>
%%% Clocks that differ only influence which member is the eldest: the announced times are compared,
%%% and names break ties. Both sides therefore also agree after a netsplit.
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
%% The range of addresses on which a gateway listens.

%% @doc Returns the task of the node `Me', which is one of the members. `Passed' are members for
%% which this node has waited in vain.
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

%% @doc Returns where the gateway of the node `Me' has to listen: on a loopback address if all
%% members are on this machine, according to the hosts of their names.
-spec scope(Me :: node(), members()) -> scope().
scope(Me, Members) ->
    case lists:all(fun(Node) -> is_near(Node, Me) end, maps:keys(Members)) of
        true -> loopback;
        false -> open
    end.

%% @doc Returns whether this is a valid status, since it comes from another node.
-spec is_status(term()) -> boolean().
is_status(#{born := Born, able := Able, role := Role}) ->
    is_integer(Born) andalso is_boolean(Able) andalso is_role(Role);
is_status(_) ->
    false.

is_role({hosting, Since, Gateway}) -> is_integer(Since) andalso is_atom(Gateway);
is_role(Role) -> Role =:= seeking orelse Role =:= guest.

%% Other machines cannot reach a gateway on a loopback address.
is_usable(none, _Host, _Me) ->
    false;
is_usable(Gateway, Host, Me) ->
    not is_loopback(host(Gateway)) orelse is_near(Host, Me).

%% A node whose host is a loopback address can be reached on its own machine only.
is_near(Node, Me) ->
    Host = host(Node),
    Mine = host(Me),
    Host =:= Mine orelse is_loopback(Host) orelse is_loopback(Mine).

is_loopback(Host) ->
    esdb_gater_distribution:is_loopback(Host).

host(Node) ->
    lists:last(string:split(atom_to_list(Node), "@")).
