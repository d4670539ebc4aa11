%% @doc A network of hosts on this machine that can be cut: one network namespace per host, each
%% with an address, a loopback and an EPMD of its own, on one bridge.
%%
%% A cut is silent, as in real life: packets from one host to another are sent to a hardware
%% address that nobody has. Connections stay as they are, and nobody is told anything. It works
%% per direction, so half a connection can be cut. Connections can be reset as well. Hosts know each other's hardware addresses
%% from the start: there is no ARP that would notice.
%%
%% A switched network has in the place of the bridge a program, `gater_switch.rs', that gives each
%% pair of hosts, one direction at a time, a delay, a loss and a bandwidth: no module of the kernel is
%% needed but TAP devices.
%%
%% It takes root and `ip' (Debian: iproute2), and `rustc' for a switched one.
-module(gater_cluster_net).

-export([new/1, new_switched/1, shape/2, delete/1, address/2, via/2, cut/2, sever/2, mend/1]).
-export_type([net/0, host/0, shape/0]).

%% Hosts are numbered from 1.
-type host() :: 1..250.
-opaque net() :: #{prefix := string(), hosts := pos_integer(), switch => pid()}.
%% What one direction of a link is like; what is not said is as good as can be.
-type shape() :: #{delay_ms => non_neg_integer(), loss_per_mille => 0..1000, kbit => pos_integer()}.

%% @doc A network with this many hosts, or why there can be none.
-spec new(pos_integer()) -> {ok, net()} | {error, string()}.
new(Count) ->
    case os:find_executable("ip", search_path()) of
        false ->
            {error, "there is no `ip': install iproute2"};
        _ ->
            sweep(),
            Net = #{prefix => gater_harness:unique("gaternet"), hosts => Count},
            case make(Net) of
                ok -> {ok, Net};
                {error, Text} -> delete(Net), {error, "no network namespaces here: " ++ Text}
            end
    end.

%% @doc As `new/1', with a switch whose links can be shaped.
-spec new_switched(pos_integer()) -> {ok, net()} | {error, string()}.
new_switched(Count) ->
    sweep(),
    case {os:find_executable("ip", search_path()), element(1, file:read_file_info("/dev/net/tun")) =:= ok, switch_program()} of
        {false, _, _} -> {error, "there is no `ip': install iproute2"};
        {_, false, _} -> {error, "there is no /dev/net/tun"};
        {_, _, {error, Text}} -> {error, Text};
        {_, _, {ok, Program}} ->
            Starter = self(),
            Switch = spawn(fun() -> switch(Starter, Program, Count) end),
            Net = #{prefix => gater_harness:unique("gaternet"), hosts => Count, switch => Switch},
            receive
                {Switch, {ready, Devices}} ->
                    case make_switched(Net, Devices) of
                        ok -> {ok, Net};
                        {error, Text} -> delete(Net), {error, "no switched network here: " ++ Text}
                    end;
                {Switch, {ended, Code}} ->
                    {error, "the switch ended with " ++ integer_to_list(Code)}
            end
    end.

%% @doc From now on the links are as told; others stay as they are.
-spec shape(net(), [{From :: host(), To :: host(), shape()}]) -> ok.
shape(#{switch := Switch}, Links) ->
    lists:foreach(fun({From, To, Shape}) ->
        Line = io_lib:format("~b ~b ~b ~b ~b~n", [From, To, maps:get(delay_ms, Shape, 0),
                                                 maps:get(loss_per_mille, Shape, 0), maps:get(kbit, Shape, 0)]),
        Monitor = monitor(process, Switch),
        Switch ! {self(), Monitor, Line},
        receive
            {Monitor, <<"ok">>} -> demonitor(Monitor, [flush]);
            {'DOWN', Monitor, _, _, Reason} -> error({switch_ended, Reason})
        end
    end, Links).

%% The process that the switch ends with.
switch(Starter, Program, Count) ->
    Port = open_port({spawn_executable, Program},
                     [{args, [integer_to_list(Count)]}, {line, 4096}, binary, exit_status, use_stdio]),
    receive
        {Port, {data, {eol, <<"ready ", Names/binary>>}}} ->
            Starter ! {self(), {ready, string:lexemes(binary_to_list(Names), " ")}},
            switch(Port);
        {Port, {exit_status, Code}} ->
            Starter ! {self(), {ended, Code}}
    end.

switch(Port) ->
    receive
        {From, Tag, Line} ->
            true = port_command(Port, Line),
            receive {Port, {data, {eol, Answer}}} -> From ! {Tag, Answer} end,
            switch(Port);
        stop ->
            port_close(Port);
        {Port, {exit_status, Code}} ->
            exit({switch, Code})
    end.

%% Compiled when it is older than its source.
switch_program() ->
    Source = filename:join([os:getenv("GATER_ROOT", "."), "tests", "ct", "gater_switch.rs"]),
    Program = filename:join([os:getenv("GATER_ROOT", "."), "target", "ct", "gater_switch"]),
    case filelib:last_modified(Program) > filelib:last_modified(Source) of
        true -> {ok, filename:absname(Program)};
        false ->
            ok = filelib:ensure_dir(Program),
            case sh(["rustc --edition 2021 -O -o ", Program, " ", Source]) of
                ok -> {ok, filename:absname(Program)};
                {error, Text} -> {error, "the switch cannot be compiled: " ++ Text}
            end
    end.

%% @doc Ends whatever runs on its hosts and takes the network away.
-spec delete(net()) -> ok.
delete(Net = #{prefix := Prefix, hosts := Count}) ->
    _ = case Net of
        #{switch := Switch} -> Switch ! stop;
        _ -> ok
    end,
    lists:foreach(fun remove/1, [space(Prefix, N) || N <- lists:seq(0, Count)]).

%% @doc The address of a host.
-spec address(net(), host()) -> string().
address(_Net, Host) -> address(Host).

%% @doc What to put before a command so that it runs on a host. It keeps its process id.
-spec via(net(), host()) -> [string()].
via(#{prefix := Prefix}, Host) ->
    [os:find_executable("ip", search_path()), "netns", "exec", space(Prefix, Host)].

%% @doc From now on what the first of each pair sends does not arrive at the second.
-spec cut(net(), [{From :: host(), To :: host()}]) -> ok.
cut(Net, Pairs) -> neighbours(Net, [{From, To, nobody()} || {From, To} <- Pairs]).

%% @doc Resets the connections there are between the hosts of each pair, as far as the kernel can.
-spec sever(net(), [{host(), host()}]) -> ok.
sever(Net, Pairs) ->
    %% Both ends: the reset of one may not arrive at the other.
    lists:foreach(fun({A, B}) -> reset(Net, A, B), reset(Net, B, A) end, Pairs).

%% @doc Everything arrives again.
-spec mend(net()) -> ok.
mend(Net = #{hosts := Count}) ->
    All = lists:seq(1, Count),
    neighbours(Net, [{From, To, hardware(To)} || From <- All, To <- All, From =/= To]).

reset(Net, Host, To) ->
    %% It complains about what it cannot close and closes what it can.
    os:cmd(lists:flatten(["PATH=", search_path(), "; ",
                          lists:join(" ", via(Net, Host) ++ ["ss", "-K", "dst", address(To)])])).

%%% Making and removing

make(Net = #{prefix := Prefix, hosts := Count}) ->
    Bridge = space(Prefix, 0),
    Hosts = lists:seq(1, Count),
    Commands =
        [["ip netns add ", Bridge],
         ["ip -n ", Bridge, " link add bridge type bridge"],
         ["ip -n ", Bridge, " link set bridge up"]
         | [Command || Host <- Hosts, Command <- host(Net, Bridge, Host)]],
    case sh(lists:join(" && ", Commands)) of
        ok -> mend(Net);
        Error -> Error
    end.

make_switched(Net = #{prefix := Prefix}, Devices) ->
    Commands = [[["ip netns add ", Space],
                 ["ip link set ", Device, " netns ", Space],
                 ["ip -n ", Space, " link set ", Device, " name eth0 address ", hardware(Host)],
                 ["ip -n ", Space, " address add ", address(Host), "/24 dev eth0"],
                 ["ip -n ", Space, " link set lo up"],
                 ["ip -n ", Space, " link set eth0 up"],
                 ["ip netns exec ", Space, " epmd -daemon"]]
                || {Host, Device} <- lists:enumerate(Devices), Space <- [space(Prefix, Host)]],
    case sh(lists:join(" && ", lists:append(Commands))) of
        ok -> mend(Net);
        Error -> Error
    end.

host(#{prefix := Prefix}, Bridge, Host) ->
    Space = space(Prefix, Host),
    Port = integer_to_list(Host),
    [["ip netns add ", Space],
     ["ip -n ", Bridge, " link add port", Port, " type veth peer name eth0 address ",
      hardware(Host), " netns ", Space],
     ["ip -n ", Bridge, " link set port", Port, " master bridge up"],
     ["ip -n ", Space, " address add ", address(Host), "/24 dev eth0"],
     ["ip -n ", Space, " link set lo up"],
     ["ip -n ", Space, " link set eth0 up"],
     %% Its children are found and ended by `ip netns pids'.
     ["ip netns exec ", Space, " epmd -daemon"]].

neighbours(#{prefix := Prefix}, Entries) ->
    Sources = lists:usort([From || {From, _, _} <- Entries]),
    lists:foreach(fun(From) ->
        Lines = [["neigh replace ", address(To), " lladdr ", Hardware, " dev eth0 nud permanent\\n"]
                 || {Source, To, Hardware} <- Entries, Source =:= From],
        ok = sh(["printf '", Lines, "' | ip -n ", space(Prefix, From), " -batch -"])
    end, Sources).

address(Host) -> lists:concat(["10.77.0.", Host]).

space(Prefix, Host) -> lists:concat([Prefix, "_", Host]).

hardware(Host) -> lists:flatten(io_lib:format("02:77:00:00:00:~2.16.0b", [Host])).

nobody() -> "02:77:ff:ff:ff:ff".

remove(Space) ->
    case string:lexemes(os:cmd(ip() ++ "netns pids " ++ Space ++ " 2>/dev/null"), "\n") of
        [] -> ok;
        Pids -> os:cmd(["kill -KILL ", lists:join(" ", Pids)])
    end,
    _ = os:cmd(ip() ++ "netns del " ++ Space ++ " 2>/dev/null"),
    ok.

%% Networks of test runs that were ended the hard way.
sweep() ->
    [remove(Space)
     || Line <- string:lexemes(os:cmd(ip() ++ "netns list 2>/dev/null"), "\n"),
        [Space | _] <- [string:lexemes(Line, " ")],
        ["gaternet", OsPid | _] <- [string:lexemes(Space, "_")],
        not filelib:is_dir("/proc/" ++ OsPid)],
    ok.

sh(Command) ->
    Path = "PATH=" ++ search_path(),
    Output = os:cmd(lists:flatten([Path, "; { ", Command, "; } 2>&1 && printf done"])),
    case lists:suffix("done", Output) of
        true -> ok;
        false -> {error, string:trim(Output)}
    end.

ip() -> os:find_executable("ip", search_path()) ++ " ".

%% Where administrators' programs are is not on everybody's path.
search_path() -> os:getenv("PATH", "") ++ ":/usr/sbin:/sbin".
