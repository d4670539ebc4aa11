%%% @private
%%% @doc What this node's distribution is like, and so where a gateway that it runs has to listen.
-module(esdb_gater_distribution).

-export([gateway_address/1, is_loopback/1]).

-export_type([family/0]).

-type family() :: inet | inet6.

%% A host of a name with short names has no dot. This is 127.0.0.1 in one number, which needs no
%% name service.
-define(LOOPBACK_NUMBER, "2130706433").

%% @doc The host of the embedded gateway's name, and the address it listens on. `loopback', for
%% nodes of this machine: `127.0.0.1' or `::1', by the kind of this node's own distribution; with
%% short names the former is called `localhost', or by its number where that name does not
%% resolve. `open', for nodes of others, and where there is no loopback address: the host in this
%% node's name, and wherever this node's own distribution listens.
%%
%% `unsupported': this node's distribution is one that the gateway does not speak, by the name
%% that `-proto_dist' has.
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

%% @doc Whether the host of a node's name is this machine, whichever it is.
-spec is_loopback(Host :: string()) -> boolean().
is_loopback(Host) ->
    lists:member(Host, ["127.0.0.1", "localhost", "::1", ?LOOPBACK_NUMBER]).

%% Of several protocols the gateway needs one.
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
