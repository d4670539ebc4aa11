%%% @private
%%% @doc The kind of this node's distribution, which determines where an embedded gateway listens.
-module(esdb_gater_distribution).

-export([gateway_address/1, is_loopback/1]).

-export_type([family/0]).

-type family() :: inet | inet6.

%% With short names, the host in a node name contains no dot. This is 127.0.0.1 as one number, which
%% needs no name service.
-define(LOOPBACK_NUMBER, "2130706433").

%% @doc Returns the host of the embedded gateway's name, and the address on which it listens. The
%% scope `loopback' is for nodes on this machine: the host is `127.0.0.1' or `::1', according to the
%% address family of this node's own distribution; with short names the former is written as
%% `localhost', or as its number where that name does not resolve. The scope `open' is for nodes on
%% other machines, and is used where there is no loopback address: the host is that in this node's
%% name, and the gateway listens wherever this node's own distribution listens.
%%
%% Returns `unsupported', with the name that `-proto_dist' has for it, if the gateway does not
%% support this node's distribution.
-spec gateway_address(esdb_gater_election:scope()) ->
          {ok, Host :: string(), Address :: string()} | {unsupported, Protocol :: string()}.
gateway_address(Scope) ->
    case family() of
        {ok, Family} ->
            {Host, Address} = address(Scope, Family, has_loopback(Family)),
            {ok, Host, Address};
        {unsupported, _} = Unsupported ->
            Unsupported
    end.

%% @doc Returns whether the host of a node name always denotes the machine itself.
-spec is_loopback(Host :: string()) -> boolean().
is_loopback(Host) ->
    lists:member(Host, ["127.0.0.1", "localhost", "::1", ?LOOPBACK_NUMBER]).

%% If the node has several protocols, the gateway needs only one of them.
family() ->
    Protocols = case init:get_argument(proto_dist) of
                    {ok, Given} -> lists:append(Given);
                    error -> ["inet_tcp"]
                end,
    case lists:filtermap(fun family/1, Protocols) of
        [Family | _] -> {ok, Family};
        [] -> {unsupported, lists:flatten(lists:join(" ", Protocols))}
    end.

family("inet_tcp") -> {true, inet};
family("inet6_tcp") -> {true, inet6};
family(_) -> false.

has_loopback(Family) ->
    case gen_tcp:listen(0, [Family, {ip, loopback}]) of
        {ok, Socket} -> ok = gen_tcp:close(Socket), true;
        {error, _} -> false
    end.

address(loopback, inet6, true) ->
    {"::1", "[::1]"};
address(loopback, inet, true) ->
    case net_kernel:longnames() of
        false -> {short_loopback(), "127.0.0.1"};
        _ -> {"127.0.0.1", "127.0.0.1"}
    end;
address(_, Family, _) ->
    Host = lists:last(string:split(atom_to_list(node()), "@")),
    case {application:get_env(kernel, inet_dist_use_interface), Family} of
        {{ok, Address}, _} when tuple_size(Address) =:= 4 -> {Host, inet:ntoa(Address)};
        {{ok, Address}, _} when tuple_size(Address) =:= 8 -> {Host, "[" ++ inet:ntoa(Address) ++ "]"};
        {_, inet} -> {Host, "0.0.0.0"};
        {_, inet6} -> {Host, "[::]"}
    end.

short_loopback() ->
    case inet:getaddr("localhost", inet) of
        {ok, {127, 0, 0, 1}} -> "localhost";
        _ -> ?LOOPBACK_NUMBER
    end.
